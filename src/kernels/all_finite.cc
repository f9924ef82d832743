#include "kernels/all_finite.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/all_finite.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// An element is infinite or NaN if all bits of its exponent are set: then the largest of all
// exponents is.
template <class Word>
bool ExponentsBelow(Word limit, const Word* rows, int64_t stride, int64_t count, int64_t length) {
  const hn::ScalableTag<Word> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto exponent = hn::Set(d, limit);
  auto largest = hn::Zero(d);
  for (int64_t row = 0; row < count; ++row) {
    const Word* from = rows + row * stride;
    int64_t i = 0;
    for (; i + lanes <= length; i += lanes) {
      largest = hn::Max(largest, hn::And(hn::LoadU(d, from + i), exponent));
    }
    for (; i < length; ++i) {
      largest = hn::Max(largest, hn::And(hn::Set(d, from[i]), exponent));
    }
  }
  return hn::AllFalse(d, hn::Eq(largest, exponent));
}

bool FloatsFinite(const float* rows, int64_t stride, int64_t count, int64_t length) {
  return ExponentsBelow<uint32_t>(0x7f800000u, reinterpret_cast<const uint32_t*>(rows), stride,
                                  count, length);
}
bool Bf16sFinite(const bf16* rows, int64_t stride, int64_t count, int64_t length) {
  return ExponentsBelow<uint16_t>(0x7f80u, reinterpret_cast<const uint16_t*>(rows), stride, count,
                                  length);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(FloatsFinite);
HWY_EXPORT(Bf16sFinite);

bool AllFinite(const float* rows, int64_t stride, int64_t count, int64_t length) {
  return HWY_DYNAMIC_DISPATCH(FloatsFinite)(rows, stride, count, length);
}
bool AllFinite(const bf16* rows, int64_t stride, int64_t count, int64_t length) {
  return HWY_DYNAMIC_DISPATCH(Bf16sFinite)(rows, stride, count, length);
}

}  // namespace ringwise
#endif
