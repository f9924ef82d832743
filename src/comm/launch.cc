#include "ringwise/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "comm/launch_parts.h"
#include "comm/shared_failure.h"
#include "comm/thread_communicator.h"
#include "comm/trace_file.h"
#include "comm/traced_communicator.h"

namespace ringwise {
namespace {

constexpr int kMostRanks = 1 << 16;

void RunOnMesh(Communicator& world, const Mesh& mesh, int threads, Tracer* trace,
               const std::function<void(Rank&)>& body) {
  const auto ring = world.Split(world.rank() / mesh.ring);
  const auto data_parallel = world.Split(world.rank() % mesh.ring);
  ThreadTeam team(threads, trace);
  MemoryMeter meter;
  Context context{team, meter, trace};
  Rank rank{world, *ring, *data_parallel, context};
  body(rank);
}

}  // namespace

void LaunchThreads(const MeshOptions& options, const std::function<void(Rank&)>& body) {
  const Mesh mesh = ResolveMesh(options, 0);
  const int ranks = mesh.ring * mesh.data_parallel;
  const int threads = options.threads > 0 ? options.threads : std::max(1, AvailableCores() / ranks);
  const auto failure = std::make_shared<SharedFailure>();
  const auto worlds = MakeThreadCommunicators(ranks, options.timeout_seconds, failure);
  const auto run = [&](int rank) {
    try {
      RunRank(*worlds[rank], mesh, threads, options.trace, body);
    } catch (...) {
      failure->Set(rank, std::current_exception());
    }
  };
  {
    std::vector<std::jthread> others;  // joined here, whatever happens
    for (int rank = 1; rank < ranks; ++rank) {
      try {
        others.emplace_back(run, rank);
        // If there are no more threads, the ranks that run already must not wait for this one.
      } catch (const std::system_error& error) {
        failure->Set(rank, std::make_exception_ptr(Error(fmt::format(
                               "cannot start the thread of rank {} of {}: {}: ask for fewer ranks, "
                               "or raise the limits on processes and memory",
                               rank, ranks, error.code().message()))));
        break;
      } catch (...) {
        failure->Set(rank, std::current_exception());
        break;
      }
    }
    run(0);
  }
  if (failure->first()) std::rethrow_exception(failure->first());
}

bool UnderMpi() {
  // Set by mpirun of Open MPI, and by any launcher that speaks PMIx. Asking MPI itself would start
  // it, which takes a second and must not happen in a plain run.
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr;
}

Mesh ResolveMesh(const MeshOptions& options, int ranks) {
  const int ring = options.ring;
  const int data_parallel = options.data_parallel;
  if (ring < 0 || data_parallel < 0 || options.threads < 0) {
    throw UsageError(
        fmt::format("ring, data-parallel and threads must be 1 or more, found {}, {} "
                    "and {}",
                    ring, data_parallel, options.threads));
  }
  if (!(options.timeout_seconds > 0)) {
    throw UsageError(
        fmt::format("the time-out must be above 0 s, found {}", options.timeout_seconds));
  }
  const int64_t wanted = int64_t{std::max(1, ring)} * std::max(1, data_parallel);
  if (wanted > kMostRanks) {
    throw UsageError(fmt::format("a job has at most {} ranks, found ring x data-parallel = {} x {}",
                                 kMostRanks, std::max(1, ring), std::max(1, data_parallel)));
  }
  if (ranks == 0) return {std::max(1, ring), std::max(1, data_parallel)};
  Mesh mesh{ring, data_parallel};
  if (mesh.ring == 0) mesh.ring = ranks / std::max(1, data_parallel);
  if (mesh.data_parallel == 0) mesh.data_parallel = ranks / mesh.ring;
  if (mesh.ring == 0 || mesh.data_parallel == 0 || mesh.ring * mesh.data_parallel != ranks) {
    const auto shown = [](int count) {
      return count == 0 ? std::string("any") : std::to_string(count);
    };
    throw UsageError(
        fmt::format("the job has {} ranks, which is not ring x data-parallel = {} x {}: start it "
                    "with mpirun -n {}, or change the flags",
                    ranks, shown(ring), shown(data_parallel), wanted));
  }
  return mesh;
}

void RunRank(Communicator& world, const Mesh& mesh, int threads, const std::string& trace,
             const std::function<void(Rank&)>& body) {
  if (trace.empty()) return RunOnMesh(world, mesh, threads, nullptr, body);
  const TraceFile file(world, trace);
  Tracer tracer(threads);
  RunOnMesh(*MakeTracedCommunicator(world, tracer), mesh, threads, &tracer, body);
  file.Write(tracer);
}

void Launch(const MeshOptions& options, const std::function<void(Rank&)>& body) {
  if (UnderMpi()) {
    LaunchMpi(options, body);
  } else {
    LaunchThreads(options, body);
  }
}

}  // namespace ringwise
