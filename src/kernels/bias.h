#pragma once

#include <span>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// What stands around the products of a layer with biases. y, dy [rows, width], f32 or bf16, rows
// may be strided; bias and gradient [width] f32. Arithmetic in f32, rounded once. Throw ShapeError.
// Team-parallel; the same bits for any team.

// y_ij += bias_j
void AddBias(Context& context, std::span<const float> bias, TensorView y);
// y_ij = max(0, y_ij + bias_j)
void AddBiasRelu(Context& context, std::span<const float> bias, TensorView y);
// With AddBiasRelu's y: dy_ij = 0 where y_ij is 0.
void ReluBackward(Context& context, ConstTensorView y, TensorView dy);
// gradient_j += sum_i dy_ij, in the rows' order.
void AddColumnSums(Context& context, ConstTensorView dy, std::span<float> gradient);

}  // namespace ringwise
