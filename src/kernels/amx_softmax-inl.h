#pragma once

// Forward's first product with the softmax at its end, by AMX tiles: a part of tile_kernels_amx.cc.
#include <algorithm>
#include <cstdint>

#include "kernels/amx_units-inl.h"
#include "kernels/softmax_bf16-inl.h"

namespace ringwise::amx {

// Makes probabilities of a unit's scores, and adds to the sums of its columns.
template <bool kMasked, bool kDrops>
class SoftmaxOfUnit {
 public:
  SoftmaxOfUnit(const ScoreTile& tile, const native_bf16::SoftmaxTile& at, const UnitSums* scores)
      : tile_(tile), at_(at), buffers_(scores) {}

  [[gnu::always_inline]] bool Skips(const Unit& unit) const {
    if (!kMasked || !Hidden(unit, tile_.visible)) return false;
    ClearPacked(unit, at_.p);
    return true;
  }

  [[gnu::always_inline]] void Start(const Unit& unit, int buffer) {
    unit_ = unit;
    scores_ = buffers_[buffer].sums;
    for (int v = 0; v < 2; ++v) {
      const int column = unit.column + v * kLanes;
      reference_[v] = _mm512_loadu_ps(at_.reference + column);
      sum_[v] = _mm512_loadu_ps(at_.sums + column);
      weight_[v] = _mm512_loadu_ps(at_.weights + column);
    }
  }

  // Rows `row` and, if it is kWhole, the next.
  template <bool kWhole>
  [[gnu::always_inline]] void Pair(int row) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    const __m512 scale = _mm512_set1_ps(tile_.scale);
    const int first = unit_.row + row;
    uint64_t visible[2] = {};
    uint64_t kept[2] = {};
    if constexpr (kMasked) {
      visible[0] = tile_.visible[first];
      visible[1] = kWhole ? tile_.visible[first + 1] : 0;
    }
    if constexpr (kDrops) {
      kept[0] = tile_.kept[first];
      kept[1] = kWhole ? tile_.kept[first + 1] : 0;
    }
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const int column = unit_.column + v * kLanes;
      const auto power = [&](int i) __attribute__((always_inline)) {
        return native_bf16::Power<kMasked>(SumsAt(scores_, row + i, v), scale, reference_[v],
                                           native_bf16::Lanes(column, visible[i]));
      };
      const __m512 even = power(0);
      const __m512 odd = kWhole ? power(1) : _mm512_setzero_ps();
      sum_[v] = _mm512_add_ps(_mm512_add_ps(sum_[v], even), odd);
      const __m512i halves = native_bf16::Round(even, odd);
      __m512i pairs = native_bf16::Pair(halves);
      weight_[v] = _mm512_dpbf16_ps(weight_[v], (__m512bh)pairs, ones);
      if constexpr (kDrops) {
        pairs = native_bf16::Pair(
            _mm512_maskz_mov_epi16(native_bf16::BothLanes(column, kept[0], kept[1]), halves));
      }
      _mm512_storeu_si512(at_.p + first * kPanel + 2 * column, pairs);
    }
  }

  [[gnu::always_inline]] void End() {
    for (int v = 0; v < 2; ++v) {
      const int column = unit_.column + v * kLanes;
      _mm512_storeu_ps(at_.sums + column, sum_[v]);
      _mm512_storeu_ps(at_.weights + column, weight_[v]);
    }
  }

 private:
  const ScoreTile& tile_;
  const native_bf16::SoftmaxTile& at_;
  const UnitSums* const buffers_;
  const float* scores_ = nullptr;
  Unit unit_;
  __m512 reference_[2];
  __m512 sum_[2];
  __m512 weight_[2];
};

template <bool kMasked, bool kDrops>
void ProductSoftmax(const PanelFactors<bf16>& factors, const ScoreTile& tile,
                    const native_bf16::SoftmaxTile& at, LinesAhead& ahead) {
  UnitSums scores[2];
  SoftmaxOfUnit<kMasked, kDrops> work(tile, at, scores);
  ForEachUnit(
      tile.rows, kPanel, factors.k,
      [&](const Unit& unit, int buffer, const auto& between)
          __attribute__((always_inline)) { MultiplyUnit(factors, unit, scores[buffer], between); },
      work, ahead);
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
  softmax({keys, stride, query, k}, tile, {query, reference, p, sums, weights}, ahead);
}

}  // namespace ringwise::amx
