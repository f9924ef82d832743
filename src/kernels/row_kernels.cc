#include "kernels/row_kernels.h"

#if defined(__aarch64__)  // vectors of unknown size cannot be elements of an array
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/row_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

HWY_INLINE V Widened(D d, const float* from) { return hn::LoadU(d, from); }
HWY_INLINE V Widened(D d, const bf16* from) {
  const hn::RebindToUnsigned<D> words;
  const hn::Rebind<uint16_t, D> halves;
  const auto bits = hn::LoadU(halves, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
}

// Rows at once: enough independent sums to hide the latency of the additions.
constexpr int kRows = 4;

template <class Element, int kCount>
void DotRows(const Element* rows, int64_t stride, const float* vector, int64_t length,
             float* dots) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V sums[kCount][2];
  for (auto& sum : sums) sum[0] = sum[1] = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= length; i += 2 * lanes) {
    for (int part = 0; part < 2; ++part) {
      const V right = hn::LoadU(d, vector + i + part * lanes);
      for (int row = 0; row < kCount; ++row) {
        sums[row][part] =
            hn::MulAdd(Widened(d, rows + row * stride + i + part * lanes), right, sums[row][part]);
      }
    }
  }
  for (; i + lanes <= length; i += lanes) {
    const V right = hn::LoadU(d, vector + i);
    for (int row = 0; row < kCount; ++row) {
      sums[row][0] = hn::MulAdd(Widened(d, rows + row * stride + i), right, sums[row][0]);
    }
  }
  for (int row = 0; row < kCount; ++row) {
    float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sums[row][0], sums[row][1])));
    for (int64_t tail = i; tail < length; ++tail) {
      sum += static_cast<float>(rows[row * stride + tail]) * vector[tail];
    }
    dots[row] = sum;
  }
}

template <class Element>
void Dot(const Element* rows, int64_t stride, int64_t count, const float* vector, int64_t length,
         float* dots) {
  int64_t row = 0;
  for (; row + kRows <= count; row += kRows) {
    DotRows<Element, kRows>(rows + row * stride, stride, vector, length, dots + row);
  }
  for (; row < count; ++row) {
    DotRows<Element, 1>(rows + row * stride, stride, vector, length, dots + row);
  }
}

const RowKernels<float>* FloatKernels() {
  static constexpr RowKernels<float> kKernels = {&Dot<float>};
  return &kKernels;
}
const RowKernels<bf16>* Bf16Kernels() {
  static constexpr RowKernels<bf16> kKernels = {&Dot<bf16>};
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(FloatKernels);
HWY_EXPORT(Bf16Kernels);

template <>
const RowKernels<float>& RowKernelsOf<float>() {
  return *HWY_DYNAMIC_DISPATCH(FloatKernels)();
}
template <>
const RowKernels<bf16>& RowKernelsOf<bf16>() {
  return *HWY_DYNAMIC_DISPATCH(Bf16Kernels)();
}

}  // namespace ringwise
#endif
