#pragma once

#include <cstdint>

namespace ringwise {

// Linear warm-up, then half a cosine down to a floor, over the whole run whatever its contexts.
struct LearningRateSchedule {
  double peak = 0;
  double floor = 0;    // the rate at the end
  int64_t warmup = 0;  // steps; step 0 already moves, by peak / warmup

  // Rate of step `step` (from 0). `progress` in [0, 1] is how much of the run after the warm-up is
  // done: in steps or in time.
  double At(int64_t step, double progress) const;
};

}  // namespace ringwise
