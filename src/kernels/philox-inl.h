// A round of Philox2x32 [Salmon et al. 2011] in vectors: include after hwy/highway.h inside a file
// that is compiled once a target (foreach_target.h).
//
// The two words of the generator's state are the low halves of 64-bit lanes, where the product of a
// round leaves them; high halves are rubbish that no product reads.

#if defined(RINGWISE_KERNELS_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_PHILOX_INL_H_
#undef RINGWISE_KERNELS_PHILOX_INL_H_
#else
#define RINGWISE_KERNELS_PHILOX_INL_H_
#endif

#include <cstdint>

#include "core/dropout_stream.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The product of low halves.
template <class D>
HWY_INLINE hn::Vec<D> TimesMultiplier(D d, hn::Vec<D> v) {
#if HWY_TARGET == HWY_SCALAR  // vectors of one element have no halves
  return hn::Set(d, (hn::GetLane(v) & 0xffffffff) * DropoutStream::kMultiplier);
#else
  const hn::Repartition<uint32_t, D> halves;
  return hn::MulEven(hn::BitCast(halves, v),
                     hn::BitCast(halves, hn::Set(d, DropoutStream::kMultiplier)));
#endif
}

template <class D>
HWY_INLINE void PhiloxRound(D d, hn::Vec<D> key, hn::Vec<D>& left, hn::Vec<D>& right) {
  const auto product = TimesMultiplier(d, left);
  left = hn::Xor(hn::Xor(hn::ShiftRight<32>(product), key), right);
  right = product;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif
