#include "kernels/read_bandwidth.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/read_bandwidth.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Four streams side by side: each prefetcher follows one, and together they keep more lines on
// their way than a single one would.
uint32_t Read(const uint32_t* words, int64_t count) {
  const hn::ScalableTag<uint32_t> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t quarter = count / 4;
  auto a = hn::Zero(d), b = hn::Zero(d), c = hn::Zero(d), e = hn::Zero(d);
  for (int64_t i = 0; i < quarter; i += lanes) {
    a = hn::Or(a, hn::LoadU(d, words + i));
    b = hn::Or(b, hn::LoadU(d, words + quarter + i));
    c = hn::Or(c, hn::LoadU(d, words + 2 * quarter + i));
    e = hn::Or(e, hn::LoadU(d, words + 3 * quarter + i));
  }
  return hn::GetLane(hn::MaxOfLanes(d, hn::Or(hn::Or(a, b), hn::Or(c, e))));
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringwise {

HWY_EXPORT(Read);

uint32_t ReadWords(std::span<const uint32_t> words) {
  return HWY_DYNAMIC_DISPATCH(Read)(words.data(), std::ssize(words));
}

}  // namespace ringwise

#endif  // HWY_ONCE
