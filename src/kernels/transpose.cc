#include "kernels/transpose.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ringwise {
namespace {

// Blocks of 16 x 16 keep the lines of both sides in the nearest cache.
constexpr int64_t kBlock = 16;

template <class Visit>
void ForEachBlock(int64_t rows, int64_t columns, const Visit& visit) {
  for (int64_t row = 0; row < rows; row += kBlock) {
    for (int64_t column = 0; column < columns; column += kBlock) {
      visit(row, std::min(rows, row + kBlock), column, std::min(columns, column + kBlock));
    }
  }
}

void TransposePlain(const char* source, int64_t stride, int64_t rows, int64_t columns,
                    uint32_t* transposed, int64_t transposed_stride) {
  ForEachBlock(rows, columns, [&](int64_t row, int64_t row_end, int64_t column, int64_t end) {
    for (int64_t c = column; c < end; ++c) {
      for (int64_t r = row; r < row_end; ++r) {
        std::memcpy(transposed + c * transposed_stride + r, source + r * stride + c * 4, 4);
      }
    }
  });
}

void AddPlain(const float* source, int64_t stride, int64_t rows, int64_t columns, const float* add,
              const float* keep, float* sums, int64_t sums_stride) {
  ForEachBlock(rows, columns, [&](int64_t row, int64_t row_end, int64_t column, int64_t end) {
    for (int64_t c = column; c < end; ++c) {
      float* const to = sums + c * sums_stride;
      for (int64_t r = row; r < row_end; ++r) {
        to[r] = keep[c] * to[r] + add[c] * source[r * stride + c];
      }
    }
  });
}

#if defined(__x86_64__)
// GCC 12 warns of its own header's deliberately undefined vectors.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f")

__mmask16 FirstLanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }

// The columns of one block of up to 16 x 16: rows are interleaved by words, then by pairs of words,
// then their quarters are exchanged.
[[gnu::always_inline]] inline void ReadColumns(const char* source, int64_t stride, int64_t rows,
                                               int64_t columns, __m512i (&a)[16]) {
  const __mmask16 read = FirstLanes(columns);
  __m512i b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    a[i] = i < rows ? _mm512_maskz_loadu_epi32(read, source + i * stride) : _mm512_setzero_si512();
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
    a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
  }
}

void TransposeBlock(const char* source, int64_t stride, int64_t rows, int64_t columns,
                    uint32_t* transposed, int64_t transposed_stride) {
  const __mmask16 write = FirstLanes(rows);
  __m512i a[16];
  ReadColumns(source, stride, rows, columns, a);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i < columns) _mm512_mask_storeu_epi32(transposed + i * transposed_stride, write, a[i]);
  }
}

void AddBlock(const float* source, int64_t stride, int64_t rows, int64_t columns, const float* add,
              const float* keep, float* sums, int64_t sums_stride) {
  const __mmask16 write = FirstLanes(rows);
  __m512i a[16];
  ReadColumns(reinterpret_cast<const char*>(source), stride * static_cast<int64_t>(sizeof(float)),
              rows, columns, a);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i >= columns) continue;
    float* const to = sums + i * sums_stride;
    const __m512 kept = _mm512_mul_ps(_mm512_set1_ps(keep[i]), _mm512_maskz_loadu_ps(write, to));
    _mm512_mask_storeu_ps(to, write,
                          _mm512_fmadd_ps(_mm512_set1_ps(add[i]), _mm512_castsi512_ps(a[i]), kept));
  }
}

void TransposeVectors(const char* source, int64_t stride, int64_t rows, int64_t columns,
                      uint32_t* transposed, int64_t transposed_stride) {
  ForEachBlock(rows, columns, [&](int64_t row, int64_t row_end, int64_t column, int64_t end) {
    TransposeBlock(source + row * stride + column * 4, stride, row_end - row, end - column,
                   transposed + column * transposed_stride + row, transposed_stride);
  });
}

void AddVectors(const float* source, int64_t stride, int64_t rows, int64_t columns,
                const float* add, const float* keep, float* sums, int64_t sums_stride) {
  ForEachBlock(rows, columns, [&](int64_t row, int64_t row_end, int64_t column, int64_t end) {
    AddBlock(source + row * stride + column, stride, row_end - row, end - column, add + column,
             keep + column, sums + column * sums_stride + row, sums_stride);
  });
}

#pragma GCC pop_options
#pragma GCC diagnostic pop

bool HasVectors() {
  static const bool kHasVectors = MayUseAvx512();
  return kHasVectors;
}
#endif

}  // namespace

void TransposeWords(const void* source, int64_t stride, int64_t rows, int64_t columns,
                    void* transposed, int64_t transposed_stride) {
  const auto* from = static_cast<const char*>(source);
  auto* to = static_cast<uint32_t*>(transposed);
#if defined(__x86_64__)
  if (HasVectors()) return TransposeVectors(from, stride, rows, columns, to, transposed_stride);
#endif
  TransposePlain(from, stride, rows, columns, to, transposed_stride);
}

void Transpose(const float* source, int64_t stride, int64_t rows, int64_t columns,
               float* transposed, int64_t transposed_stride) {
  TransposeWords(source, stride * static_cast<int64_t>(sizeof(float)), rows, columns, transposed,
                 transposed_stride);
}

void Transpose(const bf16* source, int64_t stride, int64_t rows, int64_t columns, bf16* transposed,
               int64_t transposed_stride) {
  ForEachBlock(rows, columns, [&](int64_t row, int64_t row_end, int64_t column, int64_t end) {
    for (int64_t c = column; c < end; ++c) {
      for (int64_t r = row; r < row_end; ++r) {
        transposed[c * transposed_stride + r] = source[r * stride + c];
      }
    }
  });
}

void AddTransposed(const float* source, int64_t stride, int64_t rows, int64_t columns,
                   const float* add, const float* keep, float* sums, int64_t sums_stride) {
#if defined(__x86_64__)
  if (HasVectors()) return AddVectors(source, stride, rows, columns, add, keep, sums, sums_stride);
#endif
  AddPlain(source, stride, rows, columns, add, keep, sums, sums_stride);
}

}  // namespace ringwise
