#pragma once

// What backward does to a tile of scores: a part of tile_kernels_bf16.cc.
#include <cstdint>

#include "kernels/tile_vectors_bf16-inl.h"

namespace ringwise::native_bf16 {

inline void StoreLow(bf16* to, __m512i halves) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(halves));
}
inline void StoreHigh(bf16* to, __m512i halves) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_extracti64x4_epi64(halves, 1));
}

template <bool kMasked, bool kHasTerms>
void SoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms, const float* dp,
                     const float* logsumexp, const float* delta, bf16* p, bf16* ds, int64_t ld,
                     bf16* packed_ds) {
  const __m512 dropout_factor = _mm512_set1_ps(terms.dropout_factor);
  const __m512 scale = _mm512_set1_ps(tile.scale);
  for (int column = 0; column < tile.columns; column += kLanes) {
    const __m512 logsumexp_v = _mm512_loadu_ps(logsumexp + column);
    const __m512 delta_v = _mm512_loadu_ps(delta + column);
    const auto one = [&](int row, __m512& power, __m512& gradient) {
      const __m512 score = _mm512_loadu_ps(tile.scores + row * kPanel + column);
      __m512 dp_v = _mm512_loadu_ps(dp + row * kPanel + column);
      power = RoughExp2(_mm512_fmsub_ps(score, scale, logsumexp_v));
      if constexpr (kHasTerms) {
        if (tile.kept != nullptr) {
          dp_v = _mm512_maskz_mul_ps(Lanes(column, tile.kept[row]), dp_v, dropout_factor);
        }
      }
      gradient = _mm512_mul_ps(power, _mm512_sub_ps(dp_v, delta_v));
      if constexpr (kMasked) {
        const __mmask16 lanes = Lanes(column, tile.visible[row]);
        power = _mm512_maskz_mov_ps(lanes, power);
        gradient = _mm512_maskz_mov_ps(lanes, gradient);
      }
      if constexpr (kHasTerms) {
        const int at = row * kPanel + column;
        if (terms.unsloped != nullptr) _mm512_storeu_ps(terms.unsloped + at, gradient);
        if (terms.slopes != nullptr) {
          gradient = _mm512_mul_ps(gradient, _mm512_loadu_ps(terms.slopes + at));
        }
        if (tile.kept != nullptr) {
          power = _mm512_maskz_mov_ps(Lanes(column, tile.kept[row]), power);
        }
      }
    };
    for (int row = 0; row < tile.rows; row += 2) {
      const bool pair = row + 1 < tile.rows;
      __m512 power[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      __m512 gradient[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      one(row, power[0], gradient[0]);
      if (pair) one(row + 1, power[1], gradient[1]);
      const __m512i powers = Round(power[0], power[1]);
      const __m512i gradients = Round(gradient[0], gradient[1]);
      StoreLow(p + row * ld + column, powers);
      StoreLow(ds + row * ld + column, gradients);
      if (pair) {
        StoreHigh(p + (row + 1) * ld + column, powers);
        StoreHigh(ds + (row + 1) * ld + column, gradients);
      }
      _mm512_storeu_si512(packed_ds + row * kPanel + 2 * column, Pair(gradients));
    }
  }
}

inline void AnySoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms,
                               const float* dp, const float* logsumexp, const float* delta, bf16* p,
                               bf16* ds, int64_t ld, bf16* packed_ds) {
  const bool has_terms =
      tile.kept != nullptr || terms.slopes != nullptr || terms.unsloped != nullptr;
  const auto gradient =
      has_terms      ? tile.visible ? &SoftmaxGradient<true, true> : &SoftmaxGradient<false, true>
           : tile.visible ? &SoftmaxGradient<true, false>
                     : &SoftmaxGradient<false, false>;
  gradient(tile, terms, dp, logsumexp, delta, p, ds, ld, packed_ds);
}

}  // namespace ringwise::native_bf16
