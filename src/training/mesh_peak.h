#pragma once

#include "ringwise/cpu.h"
#include "ringwise/dtype.h"
#include "ringwise/launch.h"

namespace ringwise {

// MeasurePeakFlops of the cores that the whole mesh computes with: what MFU refers to. More threads
// than cores count as the cores. One rank a host samples for so many seconds while the others wait.
// A collective call of the whole world.
FlopRate MeasureMeshPeak(Rank& rank, DType dtype, double seconds = 0.1);

}  // namespace ringwise
