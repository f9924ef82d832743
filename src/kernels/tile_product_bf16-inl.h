#pragma once

// The register tile of the bf16 products: a part of tile_kernels_bf16.cc.
#include <cstdint>
#include <cstring>

#include "kernels/register_tiles.h"
#include "kernels/tile_vectors_bf16-inl.h"

namespace ringwise::native_bf16 {

inline constexpr int kTileVectors = 4;

// Two neighbours along the sum, in every lane.
inline __m512bh BroadcastPair(const bf16* pair) {
  int32_t word;
  std::memcpy(&word, pair, sizeof(word));
  return (__m512bh)_mm512_set1_epi32(word);
}

// sums = a b over kRows rows of a and kVectors vectors of b's rows.
template <int kRows, int kVectors>
[[gnu::always_inline]] inline void MultiplyTile(const bf16* a, int64_t lda, const bf16* b,
                                                int64_t ldb, int k,
                                                __m512 (&sums)[kRows][kVectors]) {
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[row][v] = _mm512_setzero_ps();
  }
  for (int i = 0; i < k; i += 2) {
    __m512bh right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      right[v] = (__m512bh)_mm512_loadu_si512(b + v * 2 * kLanes);
    }
    b += 2 * ldb;
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m512bh left = BroadcastPair(a + row * lda + i);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sums[row][v] = _mm512_dpbf16_ps(sums[row][v], left, right[v]);
      }
    }
  }
}

template <int kRows, int kVectors>
void TileProduct(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int k, float* c,
                 int64_t ldc, bool accumulate) {
  __m512 sums[kRows][kVectors];
  MultiplyTile(a, lda, b, ldb, k, sums);
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + row * ldc + v * kLanes;
      _mm512_storeu_ps(
          to, accumulate ? _mm512_add_ps(_mm512_loadu_ps(to), sums[row][v]) : sums[row][v]);
    }
  }
}

template <int kVectors>
void ProductColumns(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int m, int k, float* c,
                    int64_t ldc, bool accumulate) {
  ForEachRegisterTile(m, [&](auto rows, int first) {
    TileProduct<rows.value, kVectors>(a + first * lda, lda, b, ldb, k, c + first * ldc, ldc,
                                      accumulate);
  });
}

inline void Product(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int m, int n, int k,
                    float* c, int64_t ldc, bool accumulate) {
  switch ((n + kLanes - 1) / kLanes) {
    case 1:
      return ProductColumns<1>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    case 2:
      return ProductColumns<2>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    case 3:
      return ProductColumns<3>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    case kTileVectors:
      return ProductColumns<kTileVectors>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    default:
      return;
  }
}

}  // namespace ringwise::native_bf16
