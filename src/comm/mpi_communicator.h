#pragma once

#include <cstdint>
#include <memory>

#include "ringwise/communicator.h"

namespace ringwise {

struct MpiOptions {
  double timeout_seconds = 300;
  // Longer messages go in parts, because MPI counts elements in 32 bits.
  int64_t part_bytes = 1 << 30;
};

// All processes of this MPI job. The first call starts MPI, which ends with the process; only one
// thread at a time is ever inside it. No error here ends the job: that is the launcher's business.
// Throws Error if this MPI cannot be called by several threads in turn.
std::unique_ptr<Communicator> MakeMpiWorld(const MpiOptions& options);

// Cores that are this rank's, if the ranks on its host share the cores of their affinity masks
// evenly; at least 1. Collective over `world`.
int CoresOfThisRank(Communicator& world);

// Ends every process of the job with `exit_code`, within seconds.
[[noreturn]] void AbortMpiJob(int exit_code);

}  // namespace ringwise
