#include "comm/shared_failure.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "ringwise/communicator.h"

namespace ringwise {

void SharedFailure::Set(int rank, std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (error_) return;
  rank_ = rank;
  error_ = std::move(error);
  failed_.store(true, std::memory_order_release);
}

void SharedFailure::Check() const {
  if (!failed_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  std::string message = "an unknown error";
  try {
    std::rethrow_exception(error_);
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {  // what it was is kept for the launcher
  }
  throw PeerError(fmt::format("rank {} failed: {}", rank_, message));
}

std::exception_ptr SharedFailure::first() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

}  // namespace ringwise
