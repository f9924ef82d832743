#pragma once

#include "ringwise/whole_attention.h"

namespace ringwise {

// Whether whole tensors can be cut into rows, and those of backward fit: everything that ring
// attention's own checks of each rank's rows do not see, or see only when forward has been
// computed. Throws ShapeError or UsageError.
void CheckWhole(const WholeAttention& whole);

}  // namespace ringwise
