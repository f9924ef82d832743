#include "kernels/row_kernels.h"

#include <algorithm>
#include <numbers>

#if defined(__aarch64__)  // vectors of unknown size cannot be elements of an array
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/row_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "hwy/contrib/math/math-inl.h"

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

// Columns of the sum at once, in registers, over all rows: each row is read a cache line or more at
// a time.
template <class Element, int kVectors>
void AddColumns(const Element* rows, int64_t stride, int64_t count, const float* weights,
                float* sum) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = hn::LoadU(d, sum + v * lanes);
  for (int64_t row = 0; row < count; ++row) {
    const V weight = hn::Set(d, weights[row]);
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = hn::MulAdd(weight, Widened(d, rows + row * stride + v * lanes), sums[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[v], d, sum + v * lanes);
}

template <class Element>
void AddWeighted(const Element* rows, int64_t stride, int64_t count, const float* weights,
                 int64_t length, float* sum) {
  constexpr int kVectors = 8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(D()));
  int64_t i = 0;
  for (; i + kVectors * lanes <= length; i += kVectors * lanes) {
    AddColumns<Element, kVectors>(rows + i, stride, count, weights, sum + i);
  }
  for (; i + 2 * lanes <= length; i += 2 * lanes) {
    AddColumns<Element, 2>(rows + i, stride, count, weights, sum + i);
  }
  for (; i + lanes <= length; i += lanes) {
    AddColumns<Element, 1>(rows + i, stride, count, weights, sum + i);
  }
  for (; i < length; ++i) {
    for (int64_t row = 0; row < count; ++row) {
      sum[i] += weights[row] * static_cast<float>(rows[row * stride + i]);
    }
  }
}

// Highway's is 0 where x is NaN.
HWY_INLINE V ExpOrNan(D d, V x) { return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x)); }

float Exp2(float* values, int64_t count, float maximum) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V base = hn::Set(d, maximum);
  const V ln2 = hn::Set(d, std::numbers::ln2_v<float>);
  V sums = hn::Zero(d);
  float sum = 0;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const V power = ExpOrNan(d, hn::Mul(ln2, hn::Sub(hn::LoadU(d, values + i), base)));
    hn::StoreU(power, d, values + i);
    sums = hn::Add(sums, power);
  }
  for (; i < count; ++i) {
    const V power = ExpOrNan(d, hn::Mul(ln2, hn::Set(d, values[i] - maximum)));
    values[i] = hn::GetLane(power);
    sum += values[i];
  }
  return sum + hn::GetLane(hn::SumOfLanes(d, sums));
}

const RowKernels<float>* FloatKernels() {
  static constexpr RowKernels<float> kKernels = {&Dot<float>, &AddWeighted<float>};
  return &kKernels;
}
const RowKernels<bf16>* Bf16Kernels() {
  static constexpr RowKernels<bf16> kKernels = {&Dot<bf16>, &AddWeighted<bf16>};
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(FloatKernels);
HWY_EXPORT(Bf16Kernels);
HWY_EXPORT(Exp2);

template <>
const RowKernels<float>& RowKernelsOf<float>() {
  return *HWY_DYNAMIC_DISPATCH(FloatKernels)();
}
template <>
const RowKernels<bf16>& RowKernelsOf<bf16>() {
  return *HWY_DYNAMIC_DISPATCH(Bf16Kernels)();
}

float Exp2InPlace(float* values, int64_t count, float maximum) {
  return HWY_DYNAMIC_DISPATCH(Exp2)(values, count, maximum);
}

}  // namespace ringwise
#endif
