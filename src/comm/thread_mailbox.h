#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <span>

#include "comm/shared_failure.h"
#include "ringwise/communicator.h"

namespace ringwise {

// One posted send or receive. The sender's memory is only read, or handed over as it is.
struct ThreadMessage {
  enum class State { kPosted, kCopying, kDone };

  bool is_send = false;
  const std::byte* send_from = nullptr;
  std::byte* receive_to = nullptr;
  SharedBytes shared;                     // of a send without a copy, until it is matched
  SharedBytes* receive_shared = nullptr;  // of a receive without a copy
  size_t size = 0;
  size_t matched_size = 0;  // of the other side; valid when done
  int source = 0;
  int tag = 0;
  std::chrono::steady_clock::time_point completed;  // valid when done
  std::atomic<State> state{State::kPosted};
};

// Where the messages to one rank meet: sends and receives that wait for their other half, in the
// order they were posted. Thread-safe.
class ThreadMailbox {
 public:
  using MessagePtr = std::shared_ptr<ThreadMessage>;

  // Adds the message, or copies at once if its other half is here.
  void Post(const MessagePtr& message);

  // Returns when the message is done. Throws PeerError when another rank fails, or when
  // `timeout_seconds` pass (the text says `waiter` waited for `peer`).
  void Wait(const ThreadMessage& message, const SharedFailure& failure, double timeout_seconds,
            int waiter, int peer);

  // After this nobody touches the message's memory: takes it back, or lets a copy under way end.
  void Withdraw(const MessagePtr& message) noexcept;

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  std::deque<MessagePtr> posted_;
};

}  // namespace ringwise
