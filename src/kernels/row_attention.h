#pragma once

#include <cstdint>
#include <limits>

#include "ringwise/dtype.h"

namespace ringwise {

// The values of one row of a PartialAttention, while keys come to it. All of them are f32.
struct AttentionRow {
  const float* query = nullptr;  // [head_dim]
  float* output = nullptr;       // [value_dim]; undefined while row_sum is 0
  float row_max = -std::numeric_limits<float>::infinity();
  float row_sum = 0;
};

// Keys and values where they lie: each row is read once, from memory, and nothing is packed.
template <class Element>
struct KeyValueRows {
  const Element* keys = nullptr;  // [count][head_dim], rows `key_stride` elements apart
  int64_t key_stride = 0;
  const Element* values = nullptr;  // [count][value_dim], rows `value_stride` apart
  int64_t value_stride = 0;
  int64_t count = 0;
};

// Adds keys that are all visible to a row, on one thread. With t = scale * (key . query), to base
// 2: the reference row_max follows the largest t at a distance of at most 2^8. NaN stays NaN.
void AttendRow(const KeyValueRows<float>& rows, int64_t head_dim, int64_t value_dim, float scale,
               AttentionRow& row);
void AttendRow(const KeyValueRows<bf16>& rows, int64_t head_dim, int64_t value_dim, float scale,
               AttentionRow& row);

}  // namespace ringwise
