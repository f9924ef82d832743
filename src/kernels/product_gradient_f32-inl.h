// Backward's first two products with the gradient of the softmax at their end, once a target: see
// tile_kernels_f32.cc.
#if defined(RINGWISE_KERNELS_PRODUCT_GRADIENT_F32_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_PRODUCT_GRADIENT_F32_INL_H_
#undef RINGWISE_KERNELS_PRODUCT_GRADIENT_F32_INL_H_
#else
#define RINGWISE_KERNELS_PRODUCT_GRADIENT_F32_INL_H_
#endif

#include <cstdint>

#include "kernels/register_tiles.h"
#include "kernels/tile_product_f32-inl.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// What one register tile reads and writes. Passed by value: through a reference it would be read
// again after every store, for all the compiler knows.
struct GradientTile {
  const uint64_t* visible;   // of each row; null: every column
  int column;                // the first, as `visible` counts them
  const float* column_term;  // logsumexp or delta
  float* p;                  // rows `ld` apart
  float* ds;
  int64_t ld;
};

// p = 2^(scale * left right - logsumexp)
template <int kRows, bool kMasked>
HWY_NOINLINE void PowersOfProduct(const PanelFactors<float>& factors, float scale,
                                  GradientTile at) {
  const D d;
  V scores[kRows][kTileVectors];
  MultiplyTile(factors.left, factors.stride, factors.right, kPackedStride<float>, factors.k,
               scores);
  const V scale_v = hn::Set(d, scale);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    const int column = v * kWidth;
    const V minus_logsumexp = hn::Neg(hn::LoadU(d, at.column_term + column));
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      V power = Exp2(hn::MulAdd(scores[row][v], scale_v, minus_logsumexp));
      if constexpr (kMasked) {
        power = hn::IfThenElseZero(Lanes(at.column + column, at.visible[row]), power);
      }
      hn::StoreU(power, d, at.p + row * at.ld + column);
    }
  }
}

// ds = p (left right - delta)
template <int kRows, bool kMasked>
HWY_NOINLINE void GradientsOfProduct(const PanelFactors<float>& factors, GradientTile at) {
  const D d;
  V dp[kRows][kTileVectors];
  MultiplyTile(factors.left, factors.stride, factors.right, kPackedStride<float>, factors.k, dp);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    const int column = v * kWidth;
    const V delta = hn::LoadU(d, at.column_term + column);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const V power = hn::LoadU(d, at.p + row * at.ld + column);
      V gradient = hn::Mul(power, hn::Sub(dp[row][v], delta));
      if constexpr (kMasked) {
        gradient = hn::IfThenElseZero(Lanes(at.column + column, at.visible[row]), gradient);
      }
      hn::StoreU(gradient, d, at.ds + row * at.ld + column);
    }
  }
}

// All rows of the tile, a register tile's columns after the other: of_product(rows, factors, tile).
template <class OfProduct>
void ForRegisterTiles(const PanelFactors<float>& factors, const ScoreTile& tile,
                      const GradientTile& whole, LinesAhead& ahead, const OfProduct& of_product) {
  for (int column = 0; column < kPanel; column += kTileVectors * kWidth) {
    ForEachRegisterTile(tile.rows, [&](auto rows, int first) {
      PanelFactors<float> part = factors;
      part.left += first * part.stride;
      part.right += column;
      GradientTile at = whole;
      if (at.visible != nullptr) at.visible += first;
      at.column = column;
      at.column_term += column;
      at.p += first * at.ld + column;
      at.ds += first * at.ld + column;
      of_product(rows, part, at);
      ahead.Fetch();
    });
  }
}

template <bool kMasked>
void ProductSoftmaxGradient(const PanelFactors<float>& scores, const PanelFactors<float>& dp,
                            const ScoreTile& tile, const float* logsumexp, const float* delta,
                            float* p, float* ds, int64_t ld, LinesAhead& ahead) {
  // One after the other over all rows: each has its right factor in the nearest cache then.
  ForRegisterTiles(scores, tile, {tile.visible, 0, logsumexp, p, ds, ld}, ahead,
                   [&](auto rows, const PanelFactors<float>& factors, const GradientTile& at) {
                     PowersOfProduct<rows.value, kMasked>(factors, tile.scale, at);
                   });
  ForRegisterTiles(dp, tile, {tile.visible, 0, delta, p, ds, ld}, ahead,
                   [&](auto rows, const PanelFactors<float>& factors, const GradientTile& at) {
                     GradientsOfProduct<rows.value, kMasked>(factors, at);
                   });
}

inline void AnyProductSoftmaxGradient(const PanelFactors<float>& scores,
                                      const PanelFactors<float>& dp, const ScoreTile& tile,
                                      const float* logsumexp, const float* delta, float*, float* p,
                                      float* ds, int64_t ld, float*, LinesAhead& ahead) {
  const auto gradient =
      tile.visible ? &ProductSoftmaxGradient<true> : &ProductSoftmaxGradient<false>;
  gradient(scores, dp, tile, logsumexp, delta, p, ds, ld, ahead);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif  // per target
