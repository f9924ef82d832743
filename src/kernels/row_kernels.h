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
};

template <class Element>
const RowKernels<Element>& RowKernelsOf();

}  // namespace ringwise
