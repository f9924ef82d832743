#pragma once

#include <cstdint>

#include "ringwise/dtype.h"

namespace ringwise {

// Lanes of a product's partial sums.
inline constexpr int kRowScoreLanes = 16;

// lanes[row][key][kRowScoreLanes] of the products of at most 4 query rows [length] with keys
// `stride` apart, whose sum is the product; the same as in f32, where products of bf16 are exact.
using RowScores = void (*)(const bf16* query, int64_t rows, const bf16* keys, int64_t stride,
                           int64_t count, int64_t length, float* lanes);

// Null where the CPU has no bf16 products.
RowScores NativeBf16RowScores();

}  // namespace ringwise
