#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "comm/shared_failure.h"

namespace ringwise {

// Throws the PeerError of a wait that lasted too long; peer < 0 means several ranks.
[[noreturn]] void ThrowTimedOut(double seconds, int waiter, int peer);

// Returns once `is_done()`, which `mutex` guards and `changed` announces. Spins briefly, for
// answers that are about to come, then sleeps. Throws PeerError when `failure` is set meanwhile, or
// after `timeout_seconds`.
template <class IsDone>
void BlockedWait(std::mutex& mutex, std::condition_variable& changed, const IsDone& is_done,
                 const SharedFailure& failure, double timeout_seconds, int waiter, int peer) {
  using Clock = std::chrono::steady_clock;
  // How late a failure may be noticed: nobody signals it to those who sleep.
  constexpr std::chrono::duration<double> kLookUp(0.05);
  constexpr int kSpins = 64;
  for (int spin = 0; spin < kSpins; ++spin) {
    if (is_done()) return;
    std::this_thread::yield();
  }
  const auto deadline = Clock::now() + std::chrono::duration<double>(timeout_seconds);
  std::unique_lock lock(mutex);
  while (!is_done()) {
    failure.Check();
    const auto left = deadline - Clock::now();
    if (left.count() <= 0) ThrowTimedOut(timeout_seconds, waiter, peer);
    changed.wait_for(lock, std::min<std::chrono::duration<double>>(left, kLookUp));
  }
}

}  // namespace ringwise
