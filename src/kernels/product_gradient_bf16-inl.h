#pragma once

// Backward's first two products with the gradient of the softmax at their end: a part of
// tile_kernels_bf16.cc.
#include <cstdint>

#include "kernels/register_tiles.h"
#include "kernels/score_gradient_bf16-inl.h"
#include "kernels/tile_product_bf16-inl.h"

namespace ringwise::native_bf16 {

// What the rows of one register tile read and write.
struct GradientTile {
  const uint64_t* visible;   // null: every column
  const float* column_term;  // logsumexp or delta
  float* powers;             // [rows][kPanel]
  bf16* rounded;             // p or ds, rows `ld` apart
  int64_t ld;
  bf16* packed;  // of ds
};

// powers = 2^(scale * left right - logsumexp), also rounded.
template <int kRows, bool kMasked>
[[gnu::noinline]] void PowersOfProduct(const PanelFactors<bf16>& factors, float scale,
                                       const GradientTile& at) {
  __m512 scores[kRows][kTileVectors];
  MultiplyTile(factors.left, factors.stride, factors.right, kPanel, factors.k, scores);
  const __m512 scale_v = _mm512_set1_ps(scale);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    const int column = v * kLanes;
    const __m512 logsumexp = _mm512_loadu_ps(at.column_term + column);
    const auto power_of = [&](__m512 score, int row) {
      __m512 power = RoughExp2(_mm512_fmsub_ps(score, scale_v, logsumexp));
      if constexpr (kMasked) power = _mm512_maskz_mov_ps(Lanes(column, at.visible[row]), power);
      _mm512_storeu_ps(at.powers + row * kPanel + column, power);
      return power;
    };
#pragma GCC unroll 8
    for (int row = 0; row < kRows; row += 2) {
      const __m512 first = power_of(scores[row][v], row);
      const __m512 second =
          row + 1 < kRows ? power_of(scores[row + 1][v], row + 1) : _mm512_setzero_ps();
      const __m512i halves = Round(first, second);
      StoreLow(at.rounded + row * at.ld + column, halves);
      if (row + 1 < kRows) StoreHigh(at.rounded + (row + 1) * at.ld + column, halves);
    }
  }
}

// ds = powers (left right - delta), in rows and packed.
template <int kRows, bool kMasked>
[[gnu::noinline]] void GradientsOfProduct(const PanelFactors<bf16>& factors,
                                          const GradientTile& at) {
  __m512 dp[kRows][kTileVectors];
  MultiplyTile(factors.left, factors.stride, factors.right, kPanel, factors.k, dp);
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    const int column = v * kLanes;
    const __m512 delta = _mm512_loadu_ps(at.column_term + column);
    const auto gradient_of = [&](__m512 product, int row) {
      const __m512 power = _mm512_loadu_ps(at.powers + row * kPanel + column);
      const __m512 difference = _mm512_sub_ps(product, delta);
      return kMasked ? _mm512_maskz_mul_ps(Lanes(column, at.visible[row]), power, difference)
                     : _mm512_mul_ps(power, difference);
    };
#pragma GCC unroll 8
    for (int row = 0; row < kRows; row += 2) {
      const __m512 first = gradient_of(dp[row][v], row);
      const __m512 second =
          row + 1 < kRows ? gradient_of(dp[row + 1][v], row + 1) : _mm512_setzero_ps();
      const __m512i halves = Round(first, second);
      StoreLow(at.rounded + row * at.ld + column, halves);
      if (row + 1 < kRows) StoreHigh(at.rounded + (row + 1) * at.ld + column, halves);
      _mm512_storeu_si512(at.packed + row * kPanel + 2 * column, Pair(halves));
    }
  }
}

// All rows of the tile: of_product(rows, factors, tile).
template <class OfProduct>
void ForRegisterTiles(const PanelFactors<bf16>& factors, const ScoreTile& tile,
                      const GradientTile& whole, LinesAhead& ahead, const OfProduct& of_product) {
  ForEachRegisterTile(tile.rows, [&](auto rows, int first) {
    PanelFactors<bf16> part = factors;
    part.left += first * part.stride;
    GradientTile at = whole;
    if (at.visible != nullptr) at.visible += first;
    at.powers += first * kPanel;
    at.rounded += first * at.ld;
    if (at.packed != nullptr) at.packed += first * kPanel;
    of_product(rows, part, at);
    ahead.Fetch();
  });
}

template <bool kMasked>
void ProductSoftmaxGradient(const PanelFactors<bf16>& scores, const PanelFactors<bf16>& dp,
                            const ScoreTile& tile, const float* logsumexp, const float* delta,
                            float* powers, bf16* p, bf16* ds, int64_t ld, bf16* packed_ds,
                            LinesAhead& ahead) {
  // One after the other over all rows: each has its right factor in the nearest cache then.
  ForRegisterTiles(scores, tile, {tile.visible, logsumexp, powers, p, ld, nullptr}, ahead,
                   [&](auto rows, const PanelFactors<bf16>& factors, const GradientTile& at) {
                     PowersOfProduct<rows.value, kMasked>(factors, tile.scale, at);
                   });
  ForRegisterTiles(dp, tile, {tile.visible, delta, powers, ds, ld, packed_ds}, ahead,
                   [&](auto rows, const PanelFactors<bf16>& factors, const GradientTile& at) {
                     GradientsOfProduct<rows.value, kMasked>(factors, at);
                   });
}

inline void AnyProductSoftmaxGradient(const PanelFactors<bf16>& scores,
                                      const PanelFactors<bf16>& dp, const ScoreTile& tile,
                                      const float* logsumexp, const float* delta, float* powers,
                                      bf16* p, bf16* ds, int64_t ld, bf16* packed_ds,
                                      LinesAhead& ahead) {
  const auto gradient =
      tile.visible ? &ProductSoftmaxGradient<true> : &ProductSoftmaxGradient<false>;
  gradient(scores, dp, tile, logsumexp, delta, powers, p, ds, ld, packed_ds, ahead);
}

}  // namespace ringwise::native_bf16
