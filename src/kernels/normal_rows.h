#pragma once

#include <cstdint>

#include "ringwise/context.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// rows[i][c] = standard normal number c of position positions[i] in sample `index` of `seed`:
// NormalRowStream and NormalPair of normal_rows_reference.h say which. A number depends on these
// alone, not on the width, the threads or the other positions; between kinds of CPU its last bits
// may differ. rows: f32 [Count(positions), width], overwritten. Throws ShapeError. Team-parallel.
void NormalRows(Context& context, uint64_t seed, int64_t index, const Positions& positions,
                TensorView rows);

}  // namespace ringwise
