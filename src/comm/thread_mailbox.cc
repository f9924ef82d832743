#include "comm/thread_mailbox.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "comm/blocked_wait.h"

namespace ringwise {
namespace {

using State = ThreadMessage::State;

}  // namespace

void ThreadMailbox::Post(const MessagePtr& message) {
  std::unique_lock lock(mutex_);
  const auto match = std::find_if(posted_.begin(), posted_.end(), [&](const MessagePtr& other) {
    return other->is_send != message->is_send && other->source == message->source &&
           other->tag == message->tag;
  });
  if (match == posted_.end()) {
    posted_.push_back(message);
    return;
  }
  const MessagePtr other = *match;
  posted_.erase(match);
  message->state.store(State::kCopying, std::memory_order_relaxed);
  other->state.store(State::kCopying, std::memory_order_relaxed);
  lock.unlock();

  const MessagePtr& send = message->is_send ? message : other;
  const MessagePtr& receive = message->is_send ? other : message;
  assert((send->shared.keeper != nullptr) == (receive->receive_shared != nullptr));
  const SharedBytes shared = std::exchange(send->shared, {});
  if (send->size == receive->size && send->size > 0) {
    if (receive->receive_shared != nullptr) {
      *receive->receive_shared = shared;
    } else {
      std::memcpy(receive->receive_to, send->send_from, send->size);
    }
  }
  send->matched_size = receive->size;
  receive->matched_size = send->size;
  send->completed = receive->completed = std::chrono::steady_clock::now();
  lock.lock();
  send->state.store(State::kDone, std::memory_order_release);
  receive->state.store(State::kDone, std::memory_order_release);
  done_.notify_all();
}

void ThreadMailbox::Wait(const ThreadMessage& message, const SharedFailure& failure,
                         double timeout_seconds, int waiter, int peer) {
  const auto is_done = [&] {
    return message.state.load(std::memory_order_acquire) == State::kDone;
  };
  BlockedWait(mutex_, done_, is_done, failure, timeout_seconds, waiter, peer);
}

void ThreadMailbox::Withdraw(const MessagePtr& message) noexcept {
  std::unique_lock lock(mutex_);
  const auto found = std::find(posted_.begin(), posted_.end(), message);
  if (found != posted_.end()) {
    posted_.erase(found);
    return;
  }
  done_.wait(lock, [&] { return message->state.load(std::memory_order_acquire) == State::kDone; });
}

}  // namespace ringwise
