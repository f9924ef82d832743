#pragma once

#include <functional>
#include <string>

#include "ringwise/launch.h"

// The parts of Launch that depend on whether there is an MPI.
namespace ringwise {

// ring and data_parallel with what was left out filled in, for a job of `ranks` ranks (0: as many
// as the mesh needs). Throws UsageError if they do not fit.
struct Mesh {
  int ring = 1;
  int data_parallel = 1;
};
Mesh ResolveMesh(const MeshOptions& options, int ranks);

// Splits `world`, makes the rank's team and meter, and calls `body`. Writes the trace to the file
// `trace`, if that is not empty.
void RunRank(Communicator& world, const Mesh& mesh, int threads, const std::string& trace,
             const std::function<void(Rank&)>& body);

// Launch without MPI, even in an MPI job: ranks are threads of this process.
void LaunchThreads(const MeshOptions& options, const std::function<void(Rank&)>& body);

// Launch under MPI; in a build without MPI, throws UsageError saying so.
void LaunchMpi(const MeshOptions& options, const std::function<void(Rank&)>& body);

}  // namespace ringwise
