#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ringwise/error.h"

namespace ringwise {

// Another rank failed, vanished or stayed silent too long. Carries that rank's first error.
class PeerError : public Error {
 public:
  using Error::Error;
};

// Bytes that go from rank to rank with SendShared and ReceiveShared. `keeper` keeps them in place
// where they are another rank's, which has made it; elsewhere it says nothing.
struct SharedBytes {
  std::span<std::byte> bytes;
  std::shared_ptr<const void> keeper;
};

// A group of ranks that exchange bytes. Ranks are threads of this process (ThreadCommunicator) or
// MPI processes (MpiCommunicator); both pass one suite and give the same bits.
//
// Thread rules: one thread a rank calls it, except Progress, which any thread of the rank may call
// while that thread waits for its team. Every rank calls the collectives in the same order. Errors:
// every call throws PeerError once another rank has failed, and after the time-out without any
// answer; it never hangs. A collective over MPI that gets no answer ends the job instead.
class Communicator {
 public:
  // A transfer under way. Destroying it before Wait is allowed only while an exception unwinds.
  class Transfer {
   public:
    virtual ~Transfer() = default;
  };
  using TransferPtr = std::unique_ptr<Transfer>;
  using Time = std::chrono::steady_clock::time_point;

  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Start a transfer and return at once. The memory must stay untouched (send) or unread (receive)
  // until Wait. Messages between two ranks with the same tag arrive in the order they were posted;
  // a receive's size must equal the message's, else Wait throws. tag is in [0, 2^15). Sending to
  // oneself is legal.
  virtual TransferPtr Send(std::span<const std::byte> bytes, int destination, int tag) = 0;
  virtual TransferPtr Receive(std::span<std::byte> bytes, int source, int tag) = 0;

  // The same for bytes that no rank writes while another uses them; a send of one kind meets a
  // receive of the same kind. Where ranks share memory (as threads) nothing is copied: by the end
  // of Wait `shared`, which must stay in place, holds the sender's own bytes and keeper. Elsewhere
  // shared.bytes, of `size`, is where a copy goes. Whoever made the bytes takes them back after a
  // Barrier; if a rank fails before, those that still hold the keeper have them.
  virtual bool shares_memory() const { return false; }
  virtual TransferPtr SendShared(const SharedBytes& shared, int destination, int tag) {
    return Send(shared.bytes, destination, tag);
  }
  virtual TransferPtr ReceiveShared(SharedBytes& shared, [[maybe_unused]] size_t size, int source,
                                    int tag) {
    return Receive(shared.bytes, source, tag);
  }

  // Resets `transfer`; null is legal. Returns when the transfer was complete, as far as this rank
  // could tell: with threads when both sides had come and the copy, if any, was done, with MPI when
  // a call first noticed it.
  virtual Time Wait(TransferPtr& transfer) = 0;

  // Moves transfers under way forward. Cheap; to be called every millisecond or so from between
  // tiles, because MPI does not progress by itself.
  virtual void Progress() = 0;

  virtual void Barrier() = 0;

  // Every rank ends with the sum over ranks, added in rank order: the same bits on every rank,
  // every time, with threads and with MPI.
  virtual void AllReduceSum(std::span<float> values) = 0;
  virtual void AllReduceSum(std::span<double> values) = 0;
  virtual void Broadcast(std::span<std::byte> bytes, int root) = 0;
  // Every rank's bytes (lengths may differ), in rank order.
  virtual std::vector<std::vector<std::byte>> AllGather(std::span<const std::byte> bytes) = 0;

  // A communicator of the ranks that give the same colour, ordered by rank here.
  virtual std::unique_ptr<Communicator> Split(int color) = 0;

  // Payload bytes this rank has sent by Send or SendShared since it was made (not to itself, not
  // the collectives).
  virtual int64_t bytes_sent() const = 0;
};

}  // namespace ringwise
