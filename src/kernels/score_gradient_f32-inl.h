// What backward does to a tile of scores, once a target: see tile_kernels_f32.cc.
#if defined(RINGWISE_KERNELS_SCORE_GRADIENT_F32_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_SCORE_GRADIENT_F32_INL_H_
#undef RINGWISE_KERNELS_SCORE_GRADIENT_F32_INL_H_
#else
#define RINGWISE_KERNELS_SCORE_GRADIENT_F32_INL_H_
#endif

#include <cstdint>

#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

template <bool kMasked, bool kHasTerms>
void SoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms, const float* dp,
                     const float* logsumexp, const float* delta, float* p, float* ds, int64_t ld) {
  const D d;
  [[maybe_unused]] const V dropout_factor = hn::Set(d, terms.dropout_factor);
  const V scale = hn::Set(d, tile.scale);
  for (int column = 0; column < tile.columns; column += kWidth) {
    const V minus_logsumexp = hn::Neg(hn::LoadU(d, logsumexp + column));
    const V delta_v = hn::LoadU(d, delta + column);
    const auto one = [&](int row) HWY_ATTR {
      const V score = hn::LoadU(d, tile.scores + row * kPanel + column);
      V dp_v = hn::LoadU(d, dp + row * kPanel + column);
      V power = Exp2(hn::MulAdd(score, scale, minus_logsumexp));
      if constexpr (kHasTerms) {
        if (tile.kept != nullptr) {
          dp_v = hn::IfThenElseZero(Lanes(column, tile.kept[row]), hn::Mul(dp_v, dropout_factor));
        }
      }
      V gradient = hn::Mul(power, hn::Sub(dp_v, delta_v));
      if constexpr (kMasked) {
        const auto lanes = Lanes(column, tile.visible[row]);
        power = hn::IfThenElseZero(lanes, power);
        gradient = hn::IfThenElseZero(lanes, gradient);
      }
      if constexpr (kHasTerms) {
        const int at = row * kPanel + column;
        if (terms.unsloped != nullptr) hn::StoreU(gradient, d, terms.unsloped + at);
        if (terms.slopes != nullptr) gradient = hn::Mul(gradient, hn::LoadU(d, terms.slopes + at));
        if (tile.kept != nullptr) power = hn::IfThenElseZero(Lanes(column, tile.kept[row]), power);
      }
      hn::StoreU(power, d, p + row * ld + column);
      hn::StoreU(gradient, d, ds + row * ld + column);
    };
    int row = 0;
    for (; row + 4 <= tile.rows; row += 4) {
      one(row);
      one(row + 1);
      one(row + 2);
      one(row + 3);
    }
    for (; row < tile.rows; ++row) one(row);
  }
}

inline void AnySoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms,
                               const float* dp, const float* logsumexp, const float* delta,
                               float* p, float* ds, int64_t ld, float*) {
  const bool has_terms =
      tile.kept != nullptr || terms.slopes != nullptr || terms.unsloped != nullptr;
  const auto gradient =
      has_terms      ? tile.visible ? &SoftmaxGradient<true, true> : &SoftmaxGradient<false, true>
           : tile.visible ? &SoftmaxGradient<true, false>
                     : &SoftmaxGradient<false, false>;
  gradient(tile, terms, dp, logsumexp, delta, p, ds, ld);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif  // per target
