#include <algorithm>
#include <cstdint>

#include "kernels/tile_kernels.h"

namespace ringwise {
namespace {

// Blocks of 16 x 16 keep the lines of both sides in the nearest cache.
constexpr int64_t kBlock = 16;

template <class T>
void TransposeBlocks(const T* source, int64_t stride, int64_t rows, int64_t columns, T* transposed,
                     int64_t transposed_stride) {
  for (int64_t row = 0; row < rows; row += kBlock) {
    const int64_t row_end = std::min(rows, row + kBlock);
    for (int64_t column = 0; column < columns; column += kBlock) {
      const int64_t column_end = std::min(columns, column + kBlock);
      for (int64_t c = column; c < column_end; ++c) {
        for (int64_t r = row; r < row_end; ++r) {
          transposed[c * transposed_stride + r] = source[r * stride + c];
        }
      }
    }
  }
}

}  // namespace

void Transpose(const float* source, int64_t stride, int64_t rows, int64_t columns,
               float* transposed, int64_t transposed_stride) {
  TransposeBlocks(source, stride, rows, columns, transposed, transposed_stride);
}

void Transpose(const bf16* source, int64_t stride, int64_t rows, int64_t columns, bf16* transposed,
               int64_t transposed_stride) {
  TransposeBlocks(source, stride, rows, columns, transposed, transposed_stride);
}

}  // namespace ringwise
