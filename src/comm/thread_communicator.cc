#include "comm/thread_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <utility>

#include "comm/blocked_wait.h"
#include "comm/check_message.h"
#include "comm/rank_order_sum.h"
#include "comm/thread_mailbox.h"
#include "ringwise/thread_team.h"

namespace ringwise {
namespace {

// What the ranks of one communicator share. Rank r writes only slot r, between two barriers.
class ThreadGroup {
 public:
  ThreadGroup(int size, double timeout, std::shared_ptr<SharedFailure> shared_failure)
      : timeout_seconds(timeout),
        failure(std::move(shared_failure)),
        mailboxes(size),
        slots(size),
        size_(size) {}

  struct Slot {
    void* data = nullptr;
    size_t size = 0;
    int color = 0;
    std::shared_ptr<ThreadGroup> split;
  };

  int size() const { return size_; }

  // Returns once every rank is here. Throws PeerError; the barrier then never opens.
  void Barrier(int rank) {
    failure->Check();
    const int round = Arrive();
    const auto is_open = [&] { return IsOpen(round); };
    try {
      BlockedWait(mutex_, changed_, is_open, *failure, timeout_seconds, rank, -1);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (IsOpen(round)) return;
      --arrived_;
      throw;
    }
  }

  // A barrier that no failure opens early: for ranks that are reading each other's memory and are
  // sure to come. So nothing that can fail on one rank alone, not even an allocation, may stand
  // between the Barrier that shows the memory and here.
  void Leave() {
    const int round = Arrive();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return IsOpen(round); });
  }

  const double timeout_seconds;
  const std::shared_ptr<SharedFailure> failure;
  std::vector<ThreadMailbox> mailboxes;  // by destination
  std::vector<Slot> slots;

 private:
  int Arrive() {
    const std::lock_guard lock(mutex_);
    const int round = round_.load(std::memory_order_relaxed);
    if (++arrived_ == size_) {
      arrived_ = 0;
      round_.store(round + 1, std::memory_order_release);
      changed_.notify_all();
    }
    return round;
  }
  bool IsOpen(int round) const { return round_.load(std::memory_order_acquire) != round; }

  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  std::atomic<int> round_{0};
};

class ThreadTransfer final : public Communicator::Transfer {
 public:
  // Keeps the group alive: an unwinding rank may drop its communicator before its transfers.
  ThreadTransfer(std::shared_ptr<ThreadGroup> group, int destination, int peer,
                 std::shared_ptr<ThreadMessage> message)
      : group_(std::move(group)),
        mailbox_(group_->mailboxes[destination]),
        peer_(peer),
        message_(std::move(message)) {
    mailbox_.Post(message_);
  }
  ~ThreadTransfer() override { mailbox_.Withdraw(message_); }

  Communicator::Time Wait(int waiter) {
    mailbox_.Wait(*message_, *group_->failure, group_->timeout_seconds, waiter, peer_);
    if (!message_->is_send) {
      CheckReceivedSize(message_->size, message_->matched_size, message_->source, message_->tag);
    }
    return message_->completed;
  }

 private:
  std::shared_ptr<ThreadGroup> group_;
  ThreadMailbox& mailbox_;
  const int peer_;  // the rank at the other end
  std::shared_ptr<ThreadMessage> message_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  TransferPtr Send(std::span<const std::byte> bytes, int destination, int tag) override {
    auto message = std::make_shared<ThreadMessage>();
    message->send_from = bytes.data();
    return StartSend(std::move(message), bytes.size(), destination, tag);
  }

  TransferPtr Receive(std::span<std::byte> bytes, int source, int tag) override {
    auto message = std::make_shared<ThreadMessage>();
    message->receive_to = bytes.data();
    return StartReceive(std::move(message), bytes.size(), source, tag);
  }

  bool shares_memory() const override { return true; }

  TransferPtr SendShared(const SharedBytes& shared, int destination, int tag) override {
    auto message = std::make_shared<ThreadMessage>();
    message->shared = shared;
    return StartSend(std::move(message), shared.bytes.size(), destination, tag);
  }

  TransferPtr ReceiveShared(SharedBytes& shared, size_t size, int source, int tag) override {
    auto message = std::make_shared<ThreadMessage>();
    message->receive_shared = &shared;
    return StartReceive(std::move(message), size, source, tag);
  }

  Time Wait(TransferPtr& transfer) override {
    if (!transfer) return std::chrono::steady_clock::now();
    const TransferPtr started = std::move(transfer);  // reset even if it throws
    return static_cast<ThreadTransfer&>(*started).Wait(rank_);
  }

  void Progress() override {}  // the second side to come has copied already

  void Barrier() override { group_->Barrier(rank_); }

  void AllReduceSum(std::span<float> values) override { Sum(values); }
  void AllReduceSum(std::span<double> values) override { Sum(values); }

  void Broadcast(std::span<std::byte> bytes, int root) override {
    CheckMessage("root", root, 0, size());
    Publish(bytes.data(), bytes.size());
    CheckPublishedSizes(bytes.size());
    const ThreadGroup::Slot& from = group_->slots[root];
    if (rank_ != root && !bytes.empty()) std::memcpy(bytes.data(), from.data, from.size);
    group_->Leave();
  }

  std::vector<std::vector<std::byte>> AllGather(std::span<const std::byte> bytes) override {
    Publish(const_cast<std::byte*>(bytes.data()), bytes.size());  // read only
    std::vector<std::vector<std::byte>> all;
    all.reserve(group_->slots.size());
    for (const ThreadGroup::Slot& slot : group_->slots) all.emplace_back(slot.size);
    Barrier();  // every rank has its memory; none has touched another's yet
    for (size_t other = 0; other < all.size(); ++other) {
      if (!all[other].empty()) {
        std::memcpy(all[other].data(), group_->slots[other].data, all[other].size());
      }
    }
    group_->Leave();
    return all;
  }

  std::unique_ptr<Communicator> Split(int color) override {
    group_->slots[rank_].color = color;
    Barrier();
    int leader = -1;
    int ranks = 0;
    int my_rank = 0;
    for (int other = 0; other < size(); ++other) {
      if (group_->slots[other].color != color) continue;
      if (leader < 0) leader = other;
      if (other == rank_) my_rank = ranks;
      ++ranks;
    }
    if (leader == rank_) {
      group_->slots[rank_].split =
          std::make_shared<ThreadGroup>(ranks, group_->timeout_seconds, group_->failure);
    }
    auto part = std::make_unique<ThreadCommunicator>(nullptr, my_rank);
    Barrier();
    part->group_ = group_->slots[leader].split;
    group_->Leave();
    if (leader == rank_) group_->slots[rank_].split.reset();
    return part;
  }

  int64_t bytes_sent() const override { return bytes_sent_; }

 private:
  TransferPtr StartSend(std::shared_ptr<ThreadMessage> message, size_t bytes, int destination,
                        int tag) {
    CheckMessage("destination", destination, tag, size());
    group_->failure->Check();
    message->is_send = true;
    message->size = bytes;
    message->source = rank_;
    message->tag = tag;
    if (destination != rank_) bytes_sent_ += static_cast<int64_t>(bytes);
    return std::make_unique<ThreadTransfer>(group_, destination, destination, std::move(message));
  }

  TransferPtr StartReceive(std::shared_ptr<ThreadMessage> message, size_t bytes, int source,
                           int tag) {
    CheckMessage("source", source, tag, size());
    group_->failure->Check();
    message->size = bytes;
    message->source = source;
    message->tag = tag;
    return std::make_unique<ThreadTransfer>(group_, rank_, source, std::move(message));
  }

  // Shows memory to the other ranks until Leave.
  void Publish(void* data, size_t size) {
    group_->slots[rank_].data = data;
    group_->slots[rank_].size = size;
    Barrier();
  }

  // All ranks see the same sizes, so all throw if they differ, before any memory is touched.
  void CheckPublishedSizes(size_t expected) const {
    for (int other = 0; other < size(); ++other) {
      CheckReceivedSize(expected, group_->slots[other].size, other, 0);
    }
  }

  // Each rank sums one slice and writes it to every rank's memory: no scratch memory at all.
  template <class T>
  void Sum(std::span<T> values) {
    std::vector<const T*> sources(group_->slots.size());
    Publish(values.data(), values.size());
    const Range slice = SplitRange(static_cast<int64_t>(values.size()), size(), rank_);
    CheckPublishedSizes(values.size());
    for (size_t other = 0; other < sources.size(); ++other) {
      sources[other] = static_cast<const T*>(group_->slots[other].data) + slice.begin;
    }
    T* mine = values.data() + slice.begin;
    SumInRankOrder<T>(sources, slice.size(), mine);
    for (int other = 0; other < size(); ++other) {
      if (other == rank_) continue;
      std::copy_n(mine, slice.size(), static_cast<T*>(group_->slots[other].data) + slice.begin);
    }
    group_->Leave();
  }

  std::shared_ptr<ThreadGroup> group_;
  int rank_;
  int64_t bytes_sent_ = 0;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(
    int size, double timeout_seconds, const std::shared_ptr<SharedFailure>& failure) {
  const auto group = std::make_shared<ThreadGroup>(size, timeout_seconds, failure);
  std::vector<std::unique_ptr<Communicator>> ranks;
  ranks.reserve(static_cast<size_t>(size));
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  }
  return ranks;
}

}  // namespace ringwise
