#include "kernels/score_modifier.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/score_modifier.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <algorithm>
#include <limits>
#include <numbers>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/tile_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kLanes>;
using V = hn::Vec<D>;

// Calls body(index) for the vectors of the tile.
template <class Body>
HWY_INLINE void ForEachVector(int rows, int columns, Body&& body) {
  const auto lanes = static_cast<int>(hn::Lanes(D()));
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; column += lanes) body(row, column);
  }
}

// tanh and its slope, both to a few units in the last place: with t = exp(-2 |x|),
//   tanh |x| = (1 - t) / (1 + t)        1 - tanh^2 = 4 t / (1 + t)^2
// where the first cancels, |x| < 1/2, by the minimax polynomial of tanh(x) / x in x^2.
template <bool kSlope>
HWY_INLINE V Tanh(V x, V& slope) {
  const D d;
  const V one = hn::Set(d, 1.0f);
  const V size = hn::Abs(x);
  const V t = hn::Exp(d, hn::Mul(hn::Set(d, -2.0f), size));
  const V inverse = hn::Div(one, hn::Add(one, t));
  const V far = hn::Mul(hn::Sub(one, t), inverse);
  const V square = hn::Mul(x, x);
  V p = hn::Set(d, 0.017241488173370893f);
  p = hn::MulAdd(p, square, hn::Set(d, -0.05304549285348888f));
  p = hn::MulAdd(p, square, hn::Set(d, 0.13325878939489577f));
  p = hn::MulAdd(p, square, hn::Set(d, -0.33333143895616224f));
  const V near = hn::MulAdd(hn::Mul(p, square), x, x);
  // The exponential need not keep NaN.
  const auto is_nan = hn::IsNaN(x);
  if constexpr (kSlope) {
    slope = hn::Mul(hn::Mul(hn::Set(d, 4.0f), t), hn::Mul(inverse, inverse));
    slope = hn::IfThenElse(is_nan, x, slope);
  }
  const V tanh = hn::IfThenElse(hn::Lt(size, hn::Set(d, 0.5f)), near, hn::CopySign(far, x));
  return hn::IfThenElse(is_nan, x, tanh);
}

template <bool kSlope>
HWY_INLINE void CapTile(float in, float out, int rows, int columns, const float* added,
                        float* scores, float* slopes) {
  const D d;
  const V log2e = hn::Set(d, std::numbers::log2e_v<float>);
  ForEachVector(rows, columns, [&](int row, int column) HWY_ATTR {
    const int at = row * kPanel + column;
    V slope = hn::Zero(d);
    const V tanh = Tanh<kSlope>(hn::Mul(hn::Set(d, in), hn::LoadU(d, scores + at)), slope);
    V score = hn::Mul(hn::Set(d, out), tanh);
    if (added != nullptr) score = hn::MulAdd(hn::LoadU(d, added + at), log2e, score);
    hn::StoreU(score, d, scores + at);
    if constexpr (kSlope) hn::StoreU(slope, d, slopes + at);
  });
}

void Cap(float in, float out, int rows, int columns, const float* added, float* scores,
         float* slopes) {
  if (slopes != nullptr) {
    CapTile<true>(in, out, rows, columns, added, scores, slopes);
  } else {
    CapTile<false>(in, out, rows, columns, added, scores, slopes);
  }
}

void Scale(float in, int rows, int columns, const float* added, float* scores, float* slopes) {
  const D d;
  const V log2e = hn::Set(d, std::numbers::log2e_v<float>);
  ForEachVector(rows, columns, [&](int row, int column) HWY_ATTR {
    const int at = row * kPanel + column;
    V score = hn::Mul(hn::Set(d, in), hn::LoadU(d, scores + at));
    if (added != nullptr) score = hn::MulAdd(hn::LoadU(d, added + at), log2e, score);
    hn::StoreU(score, d, scores + at);
    if (slopes != nullptr) hn::StoreU(hn::Set(d, 1.0f), d, slopes + at);
  });
}

void Distances(float slope, float first, float row_step, float column_step, int rows, int columns,
               float* added) {
  const D d;
  const V slope_v = hn::Set(d, slope);
  const V step = hn::Set(d, column_step);
  ForEachVector(rows, columns, [&](int row, int column) HWY_ATTR {
    const V start = hn::Set(d, first - static_cast<float>(row) * row_step);
    const V index = hn::Iota(d, static_cast<float>(column));
    float* at = added + row * kPanel + column;
    const V distance = hn::Abs(hn::MulAdd(index, step, start));
    hn::StoreU(hn::NegMulAdd(slope_v, distance, hn::LoadU(d, at)), d, at);
  });
}

void Hide(const float* added, int rows, int columns, uint64_t* visible) {
  const D d;
  const V least = hn::Set(d, -2.3e38f);
  ForEachVector(rows, columns, [&](int row, int column) HWY_ATTR {
    uint8_t bits[8] = {};
    hn::StoreMaskBits(d, hn::Lt(hn::LoadU(d, added + row * kPanel + column), least), bits);
    visible[row] &= ~((uint64_t{bits[0]} | uint64_t{bits[1]} << 8) << column);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(Cap);
HWY_EXPORT(Scale);
HWY_EXPORT(Distances);
HWY_EXPORT(Hide);

// Beyond f32: a score that large is as good as infinite.
float Saturated(double value) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(value, -kMost, kMost));
}

}  // namespace

ScoreModifier::ScoreModifier(double scale, double softcap)
    : capped_(softcap != 0),
      in_(Saturated(capped_ ? scale / softcap : scale * std::numbers::log2e)),
      out_(Saturated(softcap * std::numbers::log2e)) {}

void ScoreModifier::Apply(int rows, int columns, const float* added, float* scores,
                          float* slopes) const {
  if (capped_) {
    HWY_DYNAMIC_DISPATCH(Cap)(in_, out_, rows, columns, added, scores, slopes);
  } else {
    HWY_DYNAMIC_DISPATCH(Scale)(in_, rows, columns, added, scores, slopes);
  }
}

void SubtractDistances(float slope, float first, float row_step, float column_step, int rows,
                       int columns, float* added) {
  HWY_DYNAMIC_DISPATCH(Distances)(slope, first, row_step, column_step, rows, columns, added);
}

void HideMinusInfinity(const float* added, int rows, int columns, uint64_t* visible) {
  HWY_DYNAMIC_DISPATCH(Hide)(added, rows, columns, visible);
}

}  // namespace ringwise
#endif  // HWY_ONCE
