// The vectors of the float tile kernels, once a target: see tile_kernels_f32.cc.
#if defined(RINGWISE_KERNELS_TILE_VECTORS_F32_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_TILE_VECTORS_F32_INL_H_
#undef RINGWISE_KERNELS_TILE_VECTORS_F32_INL_H_
#else
#define RINGWISE_KERNELS_TILE_VECTORS_F32_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "kernels/tile_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kLanes>;
using V = hn::Vec<D>;
inline constexpr int kWidth = static_cast<int>(hn::MaxLanes(D()));

// The larger, and `high` where t is NaN.
HWY_INLINE V Higher(V t, V high) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return hn::Max(t, high);  // one instruction, which returns its second operand for NaN
#else
  return hn::IfThenElse(hn::Gt(t, high), t, high);
#endif
}

// The smaller, and `low` where t is NaN.
HWY_INLINE V Lower(V t, V low) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return hn::Min(t, low);
#else
  return hn::IfThenElse(hn::Lt(t, low), t, low);
#endif
}

// 2^t, relative error below 2e-7, exact for whole t; 0 or next to it below -126, infinite from 128
// on; NaN stays NaN. The minimax polynomial of degree 5 of the fraction among those that are 1 at 0
// (a lone key has weight 1 then), times the power of the whole part.
HWY_INLINE V Exp2(V t) {
  const D d;
#if HWY_TARGET == HWY_AVX3
  const V fraction{_mm512_reduce_ps(t.raw, 0x09)};  // in [0, 1)
  V p = hn::Set(d, 1.86713016591966e-3f);
  p = hn::MulAdd(p, fraction, hn::Set(d, 9.01702977716923e-3f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 5.579991266131401e-2f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.24016447365283966f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.6931512951850891f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 1.0f));
  return V{_mm512_scalef_ps(p.raw, t.raw)};
#else
  t = Lower(hn::Set(d, 128.0f), Higher(hn::Set(d, -126.0f), t));
  // So large that whole numbers are all there is beside it: the sum rounds t, and its last bits are
  // those of the rounded t and the exponent's bias.
  const V large = hn::Set(d, 0x1.8p23f + 127);
  const V rounded = hn::Add(t, large);
  const V fraction = hn::Sub(t, hn::Sub(rounded, large));  // in [-1/2, 1/2]
  V p = hn::Set(d, 1.3269405e-3f);
  p = hn::MulAdd(p, fraction, hn::Set(d, 9.671294e-3f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 5.5507112e-2f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.24022247f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.693147f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 1.0f));
  const hn::RebindToUnsigned<D> du;
  // A product, not an addition to the exponent's bits, so that NaN survives.
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, rounded))));
#endif
}

// The lanes of the vector at `column` whose bits are set.
HWY_INLINE auto Lanes(int column, uint64_t bits) {
  const uint64_t shifted = bits >> column;
  return hn::LoadMaskBits(D(), reinterpret_cast<const uint8_t*>(&shifted));
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif  // per target
