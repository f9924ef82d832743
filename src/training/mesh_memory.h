#pragma once

#include <cstdint>

#include "ringwise/launch.h"
#include "ringwise/memory.h"

namespace ringwise {

// The peak of the rank that holds most. A collective call of the whole world, as those below.
MemoryMeter::Reading LargestPeak(Rank& rank);
// The largest peak of activations, ring buffers and workspace.
int64_t LargestWorking(Rank& rank);

// What the operating system says of a process's growth, beside what the meter says.
struct MemoryGrowth {
  int64_t resident = 0;
  int64_t metered = 0;
};

// This rank's memory at a moment, from which growth is counted.
class MemoryBaseline {
 public:
  explicit MemoryBaseline(const MemoryMeter& meter);

  // Peaks since then over what there was, of the rank where the two differ most. Ranks that are
  // threads share a process: then `metered` is their sum.
  MemoryGrowth Growth(Rank& rank) const;

 private:
  int64_t resident_;
  int64_t metered_;
};

}  // namespace ringwise
