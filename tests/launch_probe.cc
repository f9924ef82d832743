// A job whose rank 1 misbehaves while the others wait for it: see launch_test.py.
//
//   launch_probe throw|usage|stall|gather|agree RANKS [TIMEOUT_SECONDS]
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/launch.h"

namespace ringwise {
namespace {

int Main(const std::string& how, int ranks, double timeout_seconds) {
  MeshOptions mesh;
  mesh.ring = ranks;
  mesh.threads = 1;
  mesh.timeout_seconds = timeout_seconds;
  Launch(mesh, [&](Rank& rank) {
    rank.world.Barrier();
    if (how == "agree") throw FileError("every rank found this");
    if (rank.world.rank() == 1) {
      if (how == "throw") throw FileError("disk full");
      if (how == "usage") throw UsageError("no such layout");
      // Long enough that only a time-out can end the job in time.
      std::this_thread::sleep_for(std::chrono::seconds(UnderMpi() ? 60 : 3));
      return;
    }
    std::vector<std::byte> bytes(1 << 20);
    if (how == "gather") {
      rank.ring.AllGather(bytes);
      return;
    }
    auto transfer = rank.ring.Receive(bytes, 1, 0);
    rank.ring.Wait(transfer);
  });
  return 0;
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) {
  try {
    return ringwise::Main(argv[1], std::atoi(argv[2]), argc > 3 ? std::atof(argv[3]) : 60);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ringwise: %s\n", error.what());
    return 1;
  }
}
