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

// 2^t, relative error below 2e-7, exact for whole t; 0 or next to it below -126; NaN stays NaN. The
// minimax polynomial of degree 5 of the fraction among those that are 1 at 0 (a lone key has weight
// 1 then), times the power of the whole part.
HWY_INLINE V Exp2(V t) {
  const D d;
#if HWY_TARGET == HWY_AVX3
  const V fraction{_mm512_reduce_ps(t.raw, 0x09)};
#else
  const V lowest = hn::Set(d, -126.0f);
  t = hn::IfThenElse(hn::Lt(t, lowest), lowest, t);  // NaN survives, as it need not in Max
  const V whole = hn::Floor(t);
  const V fraction = hn::Sub(t, whole);
#endif
  V p = hn::Set(d, 1.86713016591966e-3f);
  p = hn::MulAdd(p, fraction, hn::Set(d, 9.01702977716923e-3f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 5.579991266131401e-2f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.24016447365283966f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.6931512951850891f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  return V{_mm512_scalef_ps(p.raw, t.raw)};
#else
  const hn::RebindToSigned<D> di;
  // A product, not an addition to the exponent's bits, so that NaN survives here too.
  const auto exponent = hn::Add(hn::ConvertTo(di, whole), hn::Set(di, 127));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(exponent)));
#endif
}

// The larger, and `high` where t is NaN.
HWY_INLINE V Higher(V t, V high) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return hn::Max(t, high);  // one instruction, which returns its second operand for NaN
#else
  return hn::IfThenElse(hn::Gt(t, high), t, high);
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
