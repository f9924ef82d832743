#pragma once

// What forward does to a tile of scores: a part of tile_kernels_bf16.cc.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/register_tiles.h"
#include "kernels/tile_product_bf16-inl.h"
#include "kernels/tile_vectors_bf16-inl.h"

namespace ringwise::native_bf16 {

template <bool kMasked>
void ScoreMaxima(const ScoreTile& tile, float* maxima) {
  const __m512 scale = _mm512_set1_ps(tile.scale);
  for (int column = 0; column < tile.columns; column += kLanes) {
    __m512 high = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int row = 0; row < tile.rows; ++row) {
      const __m512 t = _mm512_mul_ps(scale, _mm512_loadu_ps(tile.scores + row * kPanel + column));
      const __mmask16 lanes =
          kMasked ? Lanes(column, tile.visible[row]) : static_cast<__mmask16>(0xffff);
      high = _mm512_mask_max_ps(high, lanes, t, high);  // in this order NaN does not stay
    }
    _mm512_storeu_ps(maxima + column, high);
  }
}

inline void AnyScoreMaxima(const ScoreTile& tile, float* maxima) {
  tile.visible ? ScoreMaxima<true>(tile, maxima) : ScoreMaxima<false>(tile, maxima);
}

template <bool kMasked, bool kDrops>
float Softmax(const ScoreTile& tile, const float* reference, bf16* p, float* sums, float* weights,
              float* excess) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  const __m512 scale = _mm512_set1_ps(tile.scale);
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 highest = lowest;
  for (int column = 0; column < tile.columns; column += kLanes) {
    const __m512 reference_v = _mm512_loadu_ps(reference + column);
    __m512 high = lowest;
    __m512 sum = _mm512_setzero_ps();
    __m512 weight = _mm512_setzero_ps();
    const auto store = [&](int row, __m512 first, __m512 second) {
      const __m512i halves = Round(first, second);
      __m512i pairs = Pair(halves);
      weight = _mm512_dpbf16_ps(weight, (__m512bh)pairs, ones);
      if constexpr (kDrops) {
        const uint64_t below = row + 1 < tile.rows ? tile.kept[row + 1] : 0;
        pairs = Pair(_mm512_maskz_mov_epi16(BothLanes(column, tile.kept[row], below), halves));
      }
      _mm512_storeu_si512(p + row * kPanel + 2 * column, pairs);
    };
    const auto one = [&](int row) {
      const __m512 score = _mm512_loadu_ps(tile.scores + row * kPanel + column);
      const __m512 t = _mm512_fmsub_ps(score, scale, reference_v);
      __m512 power = Exp2(t);
      if constexpr (kMasked) {
        const __mmask16 lanes = Lanes(column, tile.visible[row]);
        high = _mm512_mask_max_ps(high, lanes, t, high);
        power = _mm512_maskz_mov_ps(lanes, power);
      } else {
        high = _mm512_max_ps(t, high);
      }
      sum = _mm512_add_ps(sum, power);
      return power;
    };
    int row = 0;
    for (; row + 2 <= tile.rows; row += 2) {
      const __m512 first = one(row);
      const __m512 second = one(row + 1);
      store(row, first, second);
    }
    if (row < tile.rows) store(row, one(row), _mm512_setzero_ps());
    _mm512_storeu_ps(sums + column, sum);
    _mm512_storeu_ps(weights + column, weight);
    _mm512_storeu_ps(excess + column, high);
    highest = _mm512_max_ps(high, highest);
  }
  return _mm512_reduce_max_ps(highest);
}

inline float AnySoftmax(const ScoreTile& tile, const float* reference, bf16* p, float* sums,
                        float* weights, float* excess) {
  const auto softmax = tile.kept      ? tile.visible ? &Softmax<true, true> : &Softmax<false, true>
                            : tile.visible ? &Softmax<true, false>
                                      : &Softmax<false, false>;
  return softmax(tile, reference, p, sums, weights, excess);
}

// What ProductSoftmax reads and writes.
struct SoftmaxTile {
  const bf16* query;
  const float* reference;
  bf16* p;
  float* sums;  // so far, as the next
  float* weights;
};

template <bool kMasked>
[[gnu::always_inline]] inline __m512 Power(__m512 score, __m512 scale, __m512 reference,
                                           __mmask16 lanes) {
  const __m512 power = Exp2(_mm512_fmsub_ps(score, scale, reference));
  return kMasked ? _mm512_maskz_mov_ps(lanes, power) : power;
}

// kRows of the tile from `first`, an even row, on; an odd last row is paired with zeros.
template <int kRows, bool kMasked, bool kDrops>
[[gnu::noinline]] void SoftmaxOfProduct(const bf16* keys, int64_t stride, int k,
                                        const ScoreTile& tile, int first, const SoftmaxTile& at) {
  __m512 scores[kRows][kTileVectors];
  MultiplyTile(keys, stride, at.query, kPanel, k, scores);
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  const __m512 scale = _mm512_set1_ps(tile.scale);
  const auto lanes = [&](const uint64_t* words, int row, int column) -> __mmask16 {
    return words != nullptr && row < kRows ? Lanes(column, words[first + row]) : __mmask16{0};
  };
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    const int column = v * kLanes;
    const __m512 reference = _mm512_loadu_ps(at.reference + column);
    __m512 sum = _mm512_loadu_ps(at.sums + column);
    __m512 weight = _mm512_loadu_ps(at.weights + column);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; row += 2) {
      const __m512 even =
          Power<kMasked>(scores[row][v], scale, reference, lanes(tile.visible, row, column));
      __m512 odd = _mm512_setzero_ps();
      if (row + 1 < kRows) {
        odd = Power<kMasked>(scores[row + 1][v], scale, reference,
                             lanes(tile.visible, row + 1, column));
      }
      sum = _mm512_add_ps(_mm512_add_ps(sum, even), odd);
      const __m512i halves = Round(even, odd);
      __m512i pairs = Pair(halves);
      weight = _mm512_dpbf16_ps(weight, (__m512bh)pairs, ones);
      if constexpr (kDrops) {
        const uint64_t* kept = tile.kept + first + row;
        const uint64_t below = row + 1 < kRows ? kept[1] : 0;
        pairs = Pair(_mm512_maskz_mov_epi16(BothLanes(column, kept[0], below), halves));
      }
      _mm512_storeu_si512(at.p + (first + row) * kPanel + 2 * column, pairs);
    }
    _mm512_storeu_ps(at.sums + column, sum);
    _mm512_storeu_ps(at.weights + column, weight);
  }
}

template <bool kMasked, bool kDrops>
void ProductSoftmax(const bf16* keys, int64_t stride, int k, const ScoreTile& tile,
                    const SoftmaxTile& at, LinesAhead& ahead) {
  ForEachRegisterTile(tile.rows, [&](auto rows, int first) {
    SoftmaxOfProduct<rows.value, kMasked, kDrops>(keys + first * stride, stride, k, tile, first,
                                                  at);
    ahead.Fetch();
  });
}

inline void AnyProductSoftmax(const bf16* keys, int64_t stride, const bf16* query, int k,
                              const ScoreTile& tile, const float* reference, bf16* p, float* sums,
                              float* weights, LinesAhead& ahead) {
  const auto softmax =
      tile.kept      ? tile.visible ? &ProductSoftmax<true, true> : &ProductSoftmax<false, true>
           : tile.visible ? &ProductSoftmax<true, false>
                     : &ProductSoftmax<false, false>;
  std::fill_n(sums, kPanel, 0.0f);
  std::fill_n(weights, kPanel, 0.0f);
  softmax(keys, stride, k, tile, {query, reference, p, sums, weights}, ahead);
}

}  // namespace ringwise::native_bf16
