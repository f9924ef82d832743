#pragma once

#include <cstdint>

#include "ringwise/tensor.h"

namespace ringwise {

// Packed rows [batch, heads, rows, dim], looked at as [batch, rows, heads, dim] as tensors are: the
// format of what travels in backward, so that the rows of one head lie together.
template <class View, class Memory>
View PackedRows(Memory* memory, DType dtype, int64_t batch, int64_t rows, int64_t heads,
                int64_t dim) {
  View view(memory, dtype, {batch, rows, heads, dim});
  view.strides = {heads * rows * dim, dim, rows * dim, 1};
  return view;
}

// The keys and values that a walk reads, [batch, kv_len, kv_heads, ..], and where it adds up their
// gradients, in f32.
struct KeyValueRows {
  ConstTensorView key, value;
};
struct KeyValueSums {
  TensorView key, value;
};

}  // namespace ringwise
