#pragma once

#include <cstdint>
#include <string_view>

#include "ringwise/dtype.h"

namespace ringwise {

// One thread's part of MeasurePeakFlops: `rounds` rounds of independent multiply-adds on registers.
struct PeakKernel {
  float (*run)(int64_t rounds);  // the value only keeps the work from being optimised away
  int64_t flops_per_round;
};

// The fastest kernel this CPU runs for products in `dtype`.
PeakKernel PeakKernelFor(DType dtype);

}  // namespace ringwise
