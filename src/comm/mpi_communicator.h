#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "ringwise/communicator.h"

namespace ringwise {

struct MpiOptions {
  double timeout_seconds = 300;
  // Longer messages go in parts, because MPI counts elements in 32 bits.
  int64_t part_bytes = 1 << 30;
};

// All processes of this MPI job. The first call starts MPI, which ends with the process; only one
// thread at a time is ever inside it. Errors are thrown, and ending the job is left to the
// launcher, but for collectives: one that fails or times out while under way ends the job by
// FailMpiJob, since MPI may still use its memory. Throws Error if this MPI cannot be called by
// several threads in turn.
std::unique_ptr<Communicator> MakeMpiWorld(const MpiOptions& options);

// Cores that are this rank's, if the ranks on its host share the cores of their affinity masks
// evenly; at least 1. Collective over `world`.
int CoresOfThisRank(Communicator& world);

// Prints the error once, as one line, and ends every process of the job with `exit_code` within
// seconds. An error that every rank finds, such as a bad argument, is left to rank 0: the others
// give it time to end the job before they speak themselves.
[[noreturn]] void FailMpiJob(std::string_view message, int exit_code);

}  // namespace ringwise
