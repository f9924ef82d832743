#pragma once

#include <cstdint>

#include "ringwise/dtype.h"

namespace ringwise {

// transposed[column][row] = source[row][column], rows `stride` elements apart; any size.
void Transpose(const float* source, int64_t stride, int64_t rows, int64_t columns,
               float* transposed, int64_t transposed_stride);
void Transpose(const bf16* source, int64_t stride, int64_t rows, int64_t columns, bf16* transposed,
               int64_t transposed_stride);

// The same for elements of four bytes of any kind and alignment: source rows are `stride` bytes
// apart, transposed ones `transposed_stride` elements.
void TransposeWords(const void* source, int64_t stride, int64_t rows, int64_t columns,
                    void* transposed, int64_t transposed_stride);

// sums[column][row] = keep[column] * sums[column][row] + add[column] * source[row][column].
void AddTransposed(const float* source, int64_t stride, int64_t rows, int64_t columns,
                   const float* add, const float* keep, float* sums, int64_t sums_stride);

}  // namespace ringwise
