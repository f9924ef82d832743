#include "training/mesh_memory.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <span>
#include <vector>

namespace ringwise {
namespace {

template <class Value>
std::vector<Value> Gather(Rank& rank, const Value& mine) {
  std::vector<Value> values;
  for (const auto& bytes : rank.world.AllGather(std::as_bytes(std::span(&mine, 1)))) {
    Value value;
    std::memcpy(&value, bytes.data(), sizeof value);
    values.push_back(value);
  }
  return values;
}

}  // namespace

MemoryMeter::Reading LargestPeak(Rank& rank) {
  MemoryMeter::Reading largest;
  for (const MemoryMeter::Reading& reading : Gather(rank, rank.context.meter.peak())) {
    if (reading.total > largest.total) largest = reading;
  }
  return largest;
}

int64_t LargestWorking(Rank& rank) {
  const std::vector<int64_t> working = Gather(rank, rank.context.meter.peak().working);
  return *std::max_element(working.begin(), working.end());
}

MemoryBaseline::MemoryBaseline(const MemoryMeter& meter) : metered_(meter.current().total) {
  // Forgets the highest so far (reading a checkpoint, say), where the system lets us.
  std::ofstream("/proc/self/clear_refs") << "5";
  resident_ = ResidentBytes();
}

MemoryGrowth MemoryBaseline::Growth(Rank& rank) const {
  const MemoryGrowth mine = {PeakResidentBytes() - resident_,
                             rank.context.meter.peak().total - metered_};
  MemoryGrowth worst = mine;
  int64_t metered = 0;
  for (const MemoryGrowth& growth : Gather(rank, mine)) {
    metered += growth.metered;
    if (std::abs(growth.resident - growth.metered) > std::abs(worst.resident - worst.metered)) {
      worst = growth;
    }
  }
  if (!UnderMpi()) worst = {mine.resident, metered};
  return worst;
}

}  // namespace ringwise
