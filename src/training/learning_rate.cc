#include "training/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace ringwise {

double LearningRateSchedule::At(int64_t step, double progress) const {
  const double cosine = std::cos(std::numbers::pi * std::clamp(progress, 0.0, 1.0));
  const double rate = floor + (peak - floor) * 0.5 * (1 + cosine);
  if (step >= warmup) return rate;
  return std::min(rate, peak * static_cast<double>(step + 1) / static_cast<double>(warmup));
}

}  // namespace ringwise
