#pragma once

#include <sched.h>

#include "ringwise/communicator.h"

namespace ringwise {

// The cores that any rank of the job may use. Collective. Throws UsageError if the ranks are on
// several hosts.
cpu_set_t CoresOfAllRanks(Communicator& world);

// While it lives, the calling thread and the threads it starts may use these cores, whatever its
// process was bound to.
class OnCores {
 public:
  explicit OnCores(const cpu_set_t& cores);
  ~OnCores();
  OnCores(const OnCores&) = delete;
  OnCores& operator=(const OnCores&) = delete;

 private:
  cpu_set_t before_{};
};

}  // namespace ringwise
