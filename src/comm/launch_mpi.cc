#include <exception>

#include "comm/launch_parts.h"
#include "comm/mpi_communicator.h"

namespace ringwise {

void LaunchMpi(const MeshOptions& options, const std::function<void(Rank&)>& body) {
  MpiOptions mpi;
  if (options.timeout_seconds > 0) mpi.timeout_seconds = options.timeout_seconds;
  try {
    const std::unique_ptr<Communicator> world = MakeMpiWorld(mpi);
    const Mesh mesh = ResolveMesh(options, world->size());
    const int threads = options.threads > 0 ? options.threads : CoresOfThisRank(*world);
    RunRank(*world, mesh, threads, options.trace, body);
    // Nobody leaves while another may still fail: a job ends whole.
    world->Barrier();
  } catch (const UsageError& error) {
    FailMpiJob(error.what(), 2);
  } catch (const std::exception& error) {
    FailMpiJob(error.what(), 1);
  }
}

}  // namespace ringwise
