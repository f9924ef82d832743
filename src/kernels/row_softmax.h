#pragma once

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Softmax of rows, for attention that holds its probabilities:
//   p_ij = exp(scale s_ij - max_k(scale s_ik)) / sum_k exp(...)
// A score of -inf gives 0; a row of them alone is 0 throughout, one with a NaN is NaN. scores
// [rows, keys] f32, probabilities as many in f32 or bf16, both contiguous and apart. scale > 0 or
// 0. Throws ShapeError. Team-parallel over rows.
void RowSoftmaxForward(Context& context, ConstTensorView scores, float scale,
                       TensorView probabilities);

// ds_ij = scale p_ij (dp_ij - sum_k p_ik dp_ik)
// probability_gradient dp [rows, keys] f32; score_gradient ds in the probabilities' type.
void RowSoftmaxBackward(Context& context, ConstTensorView probabilities,
                        ConstTensorView probability_gradient, float scale,
                        TensorView score_gradient);

}  // namespace ringwise
