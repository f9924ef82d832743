#pragma once

#include <span>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Root-mean-square normalisation of rows [arXiv 1910.07467]:
//   inverse_rms_i = (mean_j x_ij^2 + epsilon)^-1/2
//   y_ij = weight_j x_ij inverse_rms_i
// x, y [rows, width], f32 or bf16 alike, rows may be strided; weight [width]; inverse_rms [rows].
// Arithmetic in f32, rounded once. Throws ShapeError. Team-parallel over rows.
void RmsNormForward(Context& context, ConstTensorView x, std::span<const float> weight,
                    float epsilon, TensorView y, std::span<float> inverse_rms);

// With forward's x and inverse_rms, and dy [rows, width]:
//   dx_ij              += inverse_rms_i (weight_j dy_ij - x_ij inverse_rms_i^2 mean_k(weight_k
//   dy_ik x_ik)) weight_gradient_j  += sum_i dy_ij x_ij inverse_rms_i
// The sum goes over each thread's rows, then over threads, in order: the same team, the same bits.
void RmsNormBackward(Context& context, ConstTensorView x, std::span<const float> weight,
                     std::span<const float> inverse_rms, ConstTensorView dy, TensorView dx,
                     std::span<float> weight_gradient);

}  // namespace ringwise
