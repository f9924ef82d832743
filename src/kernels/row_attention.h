#pragma once

#include <cstdint>

#include "ringwise/dtype.h"

// Attention of a few rows over keys and values where they lie: each is read from memory once, by
// all rows that share its kv_head, and nothing larger than the nearest caches is packed.
namespace ringwise {

// A part of the keys and values of some kv_heads. Element i of a row lies at
// data[position * stride + kv_head * head_stride + i].
template <class Element>
struct KeyValueRows {
  struct Matrix {
    const Element* data = nullptr;
    int64_t stride = 0;
    int64_t head_stride = 0;
  };
  Matrix keys;
  Matrix values;
  int64_t count = 0;  // positions
};

// The rows of some kv_heads, [kv_heads][rows], while keys come to them; all of it is f32.
struct AttentionRows {
  int64_t kv_heads = 0;
  int64_t rows = 0;  // of a kv_head
  int64_t head_dim = 0;
  int64_t value_dim = 0;
  float scale = 0;               // of scores; logarithms are to base 2
  const float* query = nullptr;  // [head_dim] of each row
  float* output = nullptr;       // [value_dim] of each row; undefined where row_sum is 0
  float* row_max = nullptr;      // of each row; undefined where row_sum is 0
  float* row_sum = nullptr;      // of each row; 0: nothing seen yet
  // Of each row: row_sum of weights as they were rounded for the product with values. Null where
  // none ever is.
  float* row_weight = nullptr;
};

// Adds keys that are all visible to all rows, on one thread: see PartialAttention. With
// t = scale * (key . query): t exceeds the reference row_max by no more than 8 when it is used. NaN
// stays NaN. Where t may be above 2^30 or so, its own rounding overflows 2^(t - row_max).
void AttendRows(const KeyValueRows<float>& keys, const AttentionRows& rows);
void AttendRows(const KeyValueRows<bf16>& keys, const AttentionRows& rows);

// The same by matrix tiles (AMX), for up to kMostTileRows rows of a kv_head. Queries must be bf16
// numbers; weights are rounded to bf16, and row_weight, which must be there, adds those up. t may
// exceed the reference by 9. One row costs as much as sixteen.
inline constexpr int64_t kMostTileRows = 64;
void AttendRowsByTiles(const KeyValueRows<bf16>& keys, const AttentionRows& rows);

// Whether it may be called: the CPU has such tiles, and widths are whole ones.
bool CanAttendByTiles(int64_t head_dim, int64_t value_dim);

}  // namespace ringwise
