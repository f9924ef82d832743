#pragma once

#include <atomic>
#include <exception>
#include <mutex>

namespace ringwise {

// The first error of a launch whose ranks are threads, seen by all of them. Thread-safe.
class SharedFailure {
 public:
  // Keeps the first error; later ones, which the first one caused, are dropped.
  void Set(int rank, std::exception_ptr error);
  // Throws PeerError with the first error's rank and message once there is one.
  void Check() const;
  std::exception_ptr first() const;  // null: none

 private:
  std::atomic<bool> failed_{false};
  mutable std::mutex mutex_;
  int rank_ = -1;
  std::exception_ptr error_;
};

}  // namespace ringwise
