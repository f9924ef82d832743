#pragma once

#include "ringwise/context.h"
#include "ringwise/dropout.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Dropout of activations [Srivastava et al. 2014]: element (row, column) stays, times
// 1 / (1 - probability), where Keeps(dropout, 0, 0, column, the row's position), else becomes 0.
// The same for any ring, layout and recomputation, and its own backward, on the gradient.
// x [rows, width], f32 or bf16, in place; rows may be strided; `positions` of its rows. Nothing
// happens at probability 0. Throws ShapeError. Team-parallel.
void DropActivations(Context& context, const Dropout& dropout, const Positions& positions,
                     TensorView x);

}  // namespace ringwise
