#include "benchmark/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <span>
#include <string>

namespace ringwise {
namespace {

// Of the whole machine, or the limit of a container, which mounts its own group as the root.
double MemoryOfHost() {
  const double physical =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  std::ifstream file("/sys/fs/cgroup/memory.max");
  double limit = 0;
  return file >> limit && limit > 0 ? std::min(physical, limit) : physical;  // "max": no limit
}

}  // namespace

double MemoryOfRank(Communicator& world) {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  int here = 0;
  for (const auto& other : world.AllGather(std::as_bytes(std::span(name)))) {
    if (std::memcmp(other.data(), name.data(), name.size()) == 0) ++here;
  }
  return MemoryOfHost() / here;
}

}  // namespace ringwise
