#pragma once

#include <cstdint>

#include "ringwise/context.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Cosines and sines of the rotary embedding's angles [arXiv 2104.09864] for the rows of a shard:
//   angle(row, pair) = position(row) * theta^(-2 pair / head_dim)
// computed in double, so that positions in the millions keep their place. head_dim is even.
class RotaryTable {
 public:
  RotaryTable(Context& context, const Positions& positions, int64_t head_dim, double theta);

  int64_t rows() const { return rows_; }
  int64_t pairs() const { return pairs_; }
  const float* cosines(int64_t row) const { return table_.data<float>() + row * 2 * pairs_; }
  const float* sines(int64_t row) const { return cosines(row) + pairs_; }

 private:
  int64_t rows_;
  int64_t pairs_;
  Tensor table_;  // [rows, 2, pairs] f32, activations
};

// Rotates each head in place. Element i pairs with i + head_dim / 2, as Hugging Face's models do:
//   x_i' = x_i cos - x_{i + half} sin;  x_{i + half}' = x_{i + half} cos + x_i sin
// x [rows, heads, head_dim], f32 or bf16, rows and heads may be strided; row r of x is row
// first_row + r of the table. Throws ShapeError. Team-parallel over rows.
void ApplyRotary(Context& context, const RotaryTable& table, int64_t first_row, TensorView x);
// The rotation back, which is also the gradient.
void ApplyRotaryInverse(Context& context, const RotaryTable& table, int64_t first_row,
                        TensorView x);

}  // namespace ringwise
