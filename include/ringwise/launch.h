#pragma once

#include <functional>
#include <string>

#include "ringwise/communicator.h"
#include "ringwise/context.h"

namespace ringwise {

// How the ranks are arranged: data_parallel groups, each a ring. World rank = group * ring + ring
// rank.
struct MeshOptions {
  int ring = 0;           // ranks along the sequence; 0: what is left, else 1
  int data_parallel = 0;  // groups that see different sequences; 0: what is left, else 1
  int threads =
      0;  // a rank; 0: the cores of the affinity mask over the ranks on this host, at least 1
  double timeout_seconds = 300;  // a peer silent for so long while it is waited for has failed
  std::string trace = {};        // file that a timeline of the run is written to; empty: none
};

// What one rank is given.
struct Rank {
  Communicator& world;
  Communicator& ring;           // the ranks that share my sequences
  Communicator& data_parallel;  // the ranks with my ring position in every group
  Context& context;
};

// True under mpirun (or Slurm with PMIx): ranks are then this job's processes.
bool UnderMpi();

// The MPI library's own name and version ("Open MPI v4.1.4"); "none" in a build without MPI.
std::string MpiVersion();

// Runs `body` once on every rank and returns when all are done. Without MPI the ranks are threads
// of this process; under MPI this process is one of them, and the job's size must be ring x
// data_parallel. When a rank throws, every other rank's next communication throws PeerError, and
// Launch rethrows the first error; under MPI it prints that error once and ends the job within 10
// seconds, with exit code 2 for a UsageError, else 1. With options.trace every rank's Context has a
// Tracer; the file (docs/tracing.md) is written when all bodies have returned, by world rank 0.
// Throws UsageError if the mesh does not fit the job, or has more than 65536 ranks; FileError if
// the trace cannot be written, found out before any body runs.
void Launch(const MeshOptions& options, const std::function<void(Rank&)>& body);

}  // namespace ringwise
