// The register tile of the float products, once a target: see tile_kernels_f32.cc.
#if defined(RINGWISE_KERNELS_TILE_PRODUCT_F32_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_TILE_PRODUCT_F32_INL_H_
#undef RINGWISE_KERNELS_TILE_PRODUCT_F32_INL_H_
#else
#define RINGWISE_KERNELS_TILE_PRODUCT_F32_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "kernels/register_tiles.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// Vectors of the register tile's rows, for 16 or 32 registers: see kTileRows.
#if HWY_TARGET == HWY_AVX2
inline constexpr int kTileVectors = 2;
#else
inline constexpr int kTileVectors = 4;
#endif

// sums = a b over kRows rows of a and kVectors vectors of b's rows.
template <int kRows, int kVectors>
HWY_INLINE void MultiplyTile(const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b,
                             int64_t ldb, int k, V (&sums)[kRows][kVectors]) {
  const D d;
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::Zero(d);
  }
  for (int i = 0; i < k; ++i) {
    V right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) right[v] = hn::LoadU(d, b + v * kWidth);
    b += ldb;
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const V left = hn::Set(d, a[row * lda + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::MulAdd(left, right[v], sums[row][v]);
    }
  }
}

template <int kRows, int kVectors>
HWY_NOINLINE void TileProduct(const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b,
                              int64_t ldb, int k, float* HWY_RESTRICT c, int64_t ldc,
                              bool accumulate) {
  const D d;
  V sums[kRows][kVectors];
  MultiplyTile(a, lda, b, ldb, k, sums);
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + row * ldc + v * kWidth;
      hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, to), sums[row][v]) : sums[row][v], d, to);
    }
  }
}

template <int kVectors>
void ProductColumns(const float* a, int64_t lda, const float* b, int64_t ldb, int m, int k,
                    float* c, int64_t ldc, bool accumulate) {
  ForEachRegisterTile(m, [&](auto rows, int first) {
    TileProduct<rows.value, kVectors>(a + first * lda, lda, b, ldb, k, c + first * ldc, ldc,
                                      accumulate);
  });
}

inline void Product(const float* a, int64_t lda, const float* b, int64_t ldb, int m, int n, int k,
                    float* c, int64_t ldc, bool accumulate) {
  while (n > 0) {
    const int vectors = std::min((n + kWidth - 1) / kWidth, kTileVectors);
    if (vectors == 1) {
      ProductColumns<1>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    } else if (vectors == 2 || kTileVectors == 2) {
      ProductColumns<2>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    } else if (vectors == 3) {
      ProductColumns<3>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    } else {
      ProductColumns<4>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    }
    b += vectors * kWidth;
    c += vectors * kWidth;
    n -= vectors * kWidth;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif  // per target
