#pragma once

#include "ringwise/benchmark.h"

namespace ringwise {

// Throws Error unless a small model of the case's head_dim and grouping has, in f32, the slope of
// its loss as its gradient and, in bf16, nearly the gradient of f32. Collective over the ring.
void CheckTraining(Rank& rank, const TrainBenchmark& benchmark, Layout layout);

}  // namespace ringwise
