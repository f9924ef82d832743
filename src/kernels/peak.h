#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ringwise/dtype.h"

namespace ringwise {

// One thread's part of MeasurePeakFlops: `rounds` rounds of independent multiply-adds on registers.
// The value that comes out only keeps the work from being optimised away.
struct PeakKernel {
  float (*run)(int64_t rounds) = nullptr;
  int64_t flops_per_round = 0;
};

// The kernels that this CPU's vector units run for products in `dtype`: the fastest is the peak.
std::vector<PeakKernel> PeakKernelsFor(DType dtype);

// Of bf16 products by matrix tiles; without `run` where the CPU has none.
PeakKernel TilePeakKernel();

}  // namespace ringwise
