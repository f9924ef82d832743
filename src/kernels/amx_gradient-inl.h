#pragma once

// Backward's first two products with the gradient of the softmax at their end, by AMX tiles: a part
// of tile_kernels_amx.cc.
#include <algorithm>
#include <cstdint>

#include "kernels/amx_units-inl.h"
#include "kernels/product_gradient_bf16-inl.h"
#include "kernels/tile_vectors_bf16-inl.h"

namespace ringwise::amx {

// What a tile's gradients read and write beside the products.
struct GradientTile {
  const float* logsumexp;
  const float* delta;
  bf16* p;  // rows `ld` apart, as ds
  bf16* ds;
  int64_t ld;
  bf16* packed_ds;
};

// p = 2^(scale * score - logsumexp), ds = p (dp - delta) of a unit.
template <bool kMasked>
class GradientOfUnit {
 public:
  GradientOfUnit(const ScoreTile& tile, const GradientTile& at, const UnitSums* scores,
                 const UnitSums* dp)
      : tile_(tile), at_(at), score_buffers_(scores), dp_buffers_(dp) {}

  [[gnu::always_inline]] bool Skips(const Unit& unit) const {
    if (!kMasked || !Hidden(unit, tile_.visible)) return false;
    for (int row = unit.row; row < unit.row + unit.rows; ++row) {
      std::fill_n(at_.p + row * at_.ld + unit.column, kUnitColumns, bf16{});
      std::fill_n(at_.ds + row * at_.ld + unit.column, kUnitColumns, bf16{});
    }
    ClearPacked(unit, at_.packed_ds);
    return true;
  }

  [[gnu::always_inline]] void Start(const Unit& unit, int buffer) {
    unit_ = unit;
    scores_ = score_buffers_[buffer].sums;
    dp_ = dp_buffers_[buffer].sums;
    for (int v = 0; v < 2; ++v) {
      logsumexp_[v] = _mm512_loadu_ps(at_.logsumexp + unit.column + v * kLanes);
      delta_[v] = _mm512_loadu_ps(at_.delta + unit.column + v * kLanes);
    }
  }

  // Rows `row` and, if it is kWhole, the next.
  template <bool kWhole>
  [[gnu::always_inline]] void Pair(int row) {
    const __m512i first = Row(row);
    const __m512i second = kWhole ? Row(row + 1) : _mm512_setzero_si512();
    bf16* packed = at_.packed_ds + (unit_.row + row) * kPanel + 2 * unit_.column;
    const __m512i low = _mm512_inserti64x4(first, _mm512_castsi512_si256(second), 1);
    const __m512i high = _mm512_shuffle_i64x2(first, second, 0xee);
    _mm512_storeu_si512(packed, native_bf16::Pair(low));
    _mm512_storeu_si512(packed + 2 * kLanes, native_bf16::Pair(high));
  }

  void End() const {}

 private:
  // Stores p and ds of one row; returns ds.
  [[gnu::always_inline]] __m512i Row(int row) const {
    const __m512 scale = _mm512_set1_ps(tile_.scale);
    const uint64_t visible = kMasked ? tile_.visible[unit_.row + row] : 0;
    __m512 power[2];
    __m512 gradient[2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      power[v] =
          native_bf16::RoughExp2(_mm512_fmsub_ps(SumsAt(scores_, row, v), scale, logsumexp_[v]));
      const __m512 difference = _mm512_sub_ps(SumsAt(dp_, row, v), delta_[v]);
      if constexpr (kMasked) {
        const __mmask16 lanes = native_bf16::Lanes(unit_.column + v * kLanes, visible);
        power[v] = _mm512_maskz_mov_ps(lanes, power[v]);
        gradient[v] = _mm512_maskz_mul_ps(lanes, power[v], difference);
      } else {
        gradient[v] = _mm512_mul_ps(power[v], difference);
      }
    }
    const int64_t to = (unit_.row + row) * at_.ld + unit_.column;
    const __m512i gradients = native_bf16::Round(gradient[0], gradient[1]);
    _mm512_storeu_si512(at_.p + to, native_bf16::Round(power[0], power[1]));
    _mm512_storeu_si512(at_.ds + to, gradients);
    return gradients;
  }

  const ScoreTile& tile_;
  const GradientTile& at_;
  const UnitSums* const score_buffers_;
  const UnitSums* const dp_buffers_;
  const float* scores_ = nullptr;
  const float* dp_ = nullptr;
  Unit unit_;
  __m512 logsumexp_[2];
  __m512 delta_[2];
};

template <bool kMasked>
void ProductSoftmaxGradient(const PanelFactors<bf16>& scores, const PanelFactors<bf16>& dp,
                            const ScoreTile& tile, const GradientTile& at, LinesAhead& ahead) {
  UnitSums score_sums[2];
  UnitSums dp_sums[2];
  GradientOfUnit<kMasked> work(tile, at, score_sums, dp_sums);
  ForEachUnit(
      tile.rows, kPanel, scores.k,
      [&](const Unit& unit, int buffer, const auto& between) __attribute__((always_inline)) {
        MultiplyUnit(scores, unit, score_sums[buffer], between);
        MultiplyUnit(dp, unit, dp_sums[buffer], between);
      },
      work, ahead);
}

inline void AnyProductSoftmaxGradient(const PanelFactors<bf16>& scores,
                                      const PanelFactors<bf16>& dp, const ScoreTile& tile,
                                      const float* logsumexp, const float* delta, float* powers,
                                      bf16* p, bf16* ds, int64_t ld, bf16* packed_ds,
                                      LinesAhead& ahead) {
  if (scores.k % kDepth != dp.k % kDepth) {  // their last tiles have not the same shape
    return native_bf16::AnyProductSoftmaxGradient(scores, dp, tile, logsumexp, delta, powers, p, ds,
                                                  ld, packed_ds, ahead);
  }
  const auto gradient =
      tile.visible ? &ProductSoftmaxGradient<true> : &ProductSoftmaxGradient<false>;
  gradient(scores, dp, tile, {logsumexp, delta, p, ds, ld, packed_ds}, ahead);
}

}  // namespace ringwise::amx
