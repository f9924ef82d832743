#pragma once

#include <string>

namespace ringwise {

// Keeps other processes from training the same run: an advisory lock on its folder, which the
// system releases when this process ends in whatever way. Where the file system has no locks it
// does nothing.
class RunLock {
 public:
  // Throws UsageError if another process (or another RunLock here) holds it.
  explicit RunLock(const std::string& run);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace ringwise
