#include "benchmark/cores.h"

#include <unistd.h>

#include <array>
#include <cstring>
#include <span>

#include "ringwise/error.h"

namespace ringwise {

cpu_set_t CoresOfAllRanks(Communicator& world) {
  struct Place {
    std::array<char, 256> host{};
    cpu_set_t cores{};
  };
  std::array<Place, 1> mine;
  gethostname(mine[0].host.data(), mine[0].host.size() - 1);
  sched_getaffinity(0, sizeof(cpu_set_t), &mine[0].cores);
  cpu_set_t all = mine[0].cores;
  for (const auto& bytes : world.AllGather(std::as_bytes(std::span(mine)))) {
    Place place;
    std::memcpy(&place, bytes.data(), sizeof(place));
    if (place.host != mine[0].host) {
      throw UsageError("one rank with the cores of all needs every rank on one host");
    }
    CPU_OR(&all, &all, &place.cores);
  }
  return all;
}

OnCores::OnCores(const cpu_set_t& cores) {
  sched_getaffinity(0, sizeof(before_), &before_);
  sched_setaffinity(0, sizeof(cores), &cores);
}

OnCores::~OnCores() { sched_setaffinity(0, sizeof(before_), &before_); }

}  // namespace ringwise
