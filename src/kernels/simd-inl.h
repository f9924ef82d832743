// Per-target helpers of the vector kernels: include after hwy/highway.h inside a file that is
// compiled once a target (foreach_target.h).
//
// A kernel's body is a lambda body(d, i) that handles Lanes(d) elements from index i on, with f32
// lanes whatever the storage type. ForEachLane runs it over whole vectors and then, with one-lane
// vectors, over the rest: one source for both, and nothing is read past the end.

#if defined(RINGWISE_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_SIMD_INL_H_
#undef RINGWISE_KERNELS_SIMD_INL_H_
#else
#define RINGWISE_KERNELS_SIMD_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "hwy/highway.h"
#include "ringwise/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Lanes1 = hn::CappedTag<float, 1>;

template <class D>
HWY_INLINE hn::Vec<D> LoadF32(D d, const float* HWY_RESTRICT from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadF32(D d, const bf16* HWY_RESTRICT from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const auto words = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from)));
  return hn::BitCast(d, hn::ShiftLeft<16>(words));
}

template <class D>
HWY_INLINE void StoreF32(hn::Vec<D> value, D d, float* HWY_RESTRICT to) {
  hn::StoreU(value, d, to);
}

// Rounds to nearest even as bf16(float) does; done on integers because Highway's own conversion
// truncates in the versions we support.
template <class D>
HWY_INLINE void StoreF32(hn::Vec<D> value, D /*d*/, bf16* HWY_RESTRICT to) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const hn::Rebind<int32_t, D> di32;
  const auto word = hn::BitCast(d32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(word), hn::Set(d32, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(word, hn::Set(d32, 0x7fffu)), odd));
  const auto quiet = hn::Or(hn::ShiftRight<16>(word), hn::Set(d32, 0x40u));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(value));
  const auto bits = hn::BitCast(di32, hn::IfThenElse(is_nan, quiet, rounded));
  hn::StoreU(hn::DemoteTo(d16, bits), d16, reinterpret_cast<uint16_t*>(to));
}

template <class Body>
HWY_INLINE void ForEachLane(int64_t count, Body&& body) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) body(d, i);
  for (; i < count; ++i) body(Lanes1(), i);
}

// Sum over i of term(d, i), in f32 lanes.
template <class Term>
HWY_INLINE float SumOverLanes(int64_t count, Term&& term) {
  const hn::ScalableTag<float> d;
  const Lanes1 d1;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    sum0 = hn::Add(sum0, term(d, i));
    sum1 = hn::Add(sum1, term(d, i + lanes));
  }
  for (; i + lanes <= count; i += lanes) sum0 = hn::Add(sum0, term(d, i));
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < count; ++i) sum += hn::GetLane(term(d1, i));
  return sum;
}

// The largest value; NaN if any is (vector maxima would drop it). -inf of none.
HWY_INLINE float LargestOf(const float* HWY_RESTRICT values, int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto highest = hn::Set(d, -std::numeric_limits<float>::infinity());
  bool found_nan = false;
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
    const auto some = hn::LoadU(d, values + j);
    found_nan |= !hn::AllFalse(d, hn::IsNaN(some));
    highest = hn::Max(highest, some);
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, highest));
  for (; j < count; ++j) {
    found_nan |= std::isnan(values[j]);
    largest = std::max(largest, values[j]);
  }
  return found_nan ? std::numeric_limits<float>::quiet_NaN() : largest;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif
