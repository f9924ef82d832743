#pragma once

#include <cstdint>

#include "ringwise/dtype.h"

namespace ringwise {

// Whether no element of the rows, `stride` apart and `length` long, is infinite or NaN.
bool AllFinite(const float* rows, int64_t stride, int64_t count, int64_t length);
bool AllFinite(const bf16* rows, int64_t stride, int64_t count, int64_t length);

}  // namespace ringwise
