#pragma once

#include <cstdint>

#include "ringwise/dtype.h"

// Products with a single row, as when one token is generated: each element of the matrix is read
// once, from memory, and nothing is packed. Rows are `stride` elements apart; sums are f32. On one
// thread.
namespace ringwise {

template <class Element>
struct RowKernels {
  // dots[i] = rows[i] . vector, of `length` elements each.
  void (*dot)(const Element* rows, int64_t stride, int64_t count, const float* vector,
              int64_t length, float* dots);
  // sum += weights[0] rows[0] + weights[1] rows[1] + ...
  void (*add_weighted)(const Element* rows, int64_t stride, int64_t count, const float* weights,
                       int64_t length, float* sum);
};

template <class Element>
const RowKernels<Element>& RowKernelsOf();

// values[i] = 2^(values[i] - maximum), maximum being the largest of them and above -inf. Returns
// the sum. Relative error of each below 1e-6 down to 2^-20; a NaN stays one.
float Exp2InPlace(float* values, int64_t count, float maximum);

}  // namespace ringwise
