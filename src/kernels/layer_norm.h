#pragma once

#include <cstdint>
#include <span>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// The parts of a layer normalisation [arXiv 1607.06450] of rows x [rows, width], f32 or bf16, rows
// may be strided:
//   normal_ij = (x_ij - mean_i) inverse_i,   y_ij = gain_kj normal_ij + bias_kj
// Over the width of each row alone, or over more (all rows of a document): whoever calls says what
// mean_i and inverse_i = (variance + epsilon)^-1/2 belong to a row, and what row k = weight_rows[i]
// of gain and bias [k rows, width], f32; an empty weight_rows is row 0 for all. Arithmetic in f32,
// rounded once. Team-parallel; the same bits for any team. All throw ShapeError.
struct NormRows {
  std::span<const float> mean;     // [rows]
  std::span<const float> inverse;  // [rows]
  ConstTensorView gain;
  std::span<const int64_t> weight_rows;
};

// mean_i = mean_j x_ij;  deviations_i = sum_j (x_ij - mean_i)^2
void RowMoments(Context& context, ConstTensorView x, std::span<float> mean,
                std::span<float> deviations);

void LayerNormForward(Context& context, ConstTensorView x, const NormRows& rows,
                      ConstTensorView bias, TensorView y);

// What backward needs of a row: gradient_i = sum_j gain_kj dy_ij, product_i = sum_j gain_kj dy_ij
// normal_ij.
void LayerNormBackwardSums(Context& context, ConstTensorView x, const NormRows& rows,
                           ConstTensorView dy, std::span<float> gradient, std::span<float> product);

// With the means of those sums over what was normalised together, `gradient` and `product` [rows]:
//   gain_gradient_kj += dy_ij normal_ij;  bias_gradient_kj += dy_ij
//   dx_ij = inverse_i (gain_kj dy_ij - gradient_i - normal_ij product_i)
// dy becomes dx in place.
void LayerNormBackward(Context& context, ConstTensorView x, const NormRows& rows,
                       std::span<const float> gradient, std::span<const float> product,
                       TensorView dy, TensorView gain_gradient, TensorView bias_gradient);

}  // namespace ringwise
