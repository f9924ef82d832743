#include "training/mesh_peak.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <thread>

namespace ringwise {
namespace {

std::string HostName() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace

FlopRate MeasureMeshPeak(Rank& rank, DType dtype, double seconds) {
  const std::string mine = HostName();
  const auto names = rank.world.AllGather(std::as_bytes(std::span(mine)));
  int ranks_here = 0;
  int first_here = -1;
  for (size_t other = 0; other < names.size(); ++other) {
    if (names[other].size() != mine.size() ||
        std::memcmp(names[other].data(), mine.data(), mine.size()) != 0) {
      continue;
    }
    if (first_here < 0) first_here = static_cast<int>(other);
    ++ranks_here;
  }
  std::array<double, 2> peak = {0, 0};
  if (rank.world.rank() == first_here) {
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    const int used = std::min(ranks_here * rank.context.team.size(), cores);
    // A rank that is bound to fewer cores than the mesh uses here samples what it may and scales.
    const int sampled = std::min(used, AvailableCores());
    ThreadTeam team(sampled);
    const FlopRate rate = MeasurePeakFlops(team, dtype, seconds);
    peak = {rate.best * used / sampled, rate.sustained * used / sampled};
  }
  rank.world.AllReduceSum(std::span<double>(peak));
  return {.best = peak[0], .sustained = peak[1]};
}

}  // namespace ringwise
