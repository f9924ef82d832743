#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "comm/launch_parts.h"
#include "comm/mpi_communicator.h"

namespace ringwise {
namespace {

// Prints the error once, and ends the job. An error that every rank finds, such as a bad argument,
// is left to rank 0: the others give it time to end the job before they speak themselves.
[[noreturn]] void Fail(int rank, const char* message, int exit_code) {
  if (rank != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  std::string line = message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fprintf(stderr, "ringwise: rank %d: %s\n", rank, line.c_str());
  std::fflush(nullptr);
  AbortMpiJob(exit_code);
}

}  // namespace

void LaunchMpi(const MeshOptions& options, const std::function<void(Rank&)>& body) {
  MpiOptions mpi;
  if (options.timeout_seconds > 0) mpi.timeout_seconds = options.timeout_seconds;
  const std::unique_ptr<Communicator> world = MakeMpiWorld(mpi);
  try {
    const Mesh mesh = ResolveMesh(options, world->size());
    const int threads = options.threads > 0 ? options.threads : CoresOfThisRank(*world);
    RunRank(*world, mesh, threads, body);
    // Nobody leaves while another may still fail: a job ends whole.
    world->Barrier();
  } catch (const UsageError& error) {
    Fail(world->rank(), error.what(), 2);
  } catch (const std::exception& error) {
    Fail(world->rank(), error.what(), 1);
  }
}

}  // namespace ringwise
