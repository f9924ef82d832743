#include "kernels/rms_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <cmath>
#include <string>
#include <vector>

#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

template <class T>
void ForwardRow(const T* HWY_RESTRICT x, const float* HWY_RESTRICT weight, int64_t width,
                float epsilon, T* HWY_RESTRICT y, float* HWY_RESTRICT inverse_rms) {
  const float squares = SumOverLanes(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto value = LoadF32(d, x + j);
    return hn::Mul(value, value);
  });
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon);
  *inverse_rms = inverse;
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto scaled = hn::Mul(LoadF32(d, x + j), hn::Set(d, inverse));
    StoreF32(hn::Mul(scaled, hn::LoadU(d, weight + j)), d, y + j);
  });
}

template <class T>
void BackwardRow(const T* HWY_RESTRICT x, const float* HWY_RESTRICT weight, float inverse,
                 const T* HWY_RESTRICT dy, int64_t width, T* HWY_RESTRICT dx,
                 float* HWY_RESTRICT weight_gradient) {
  const float dot = SumOverLanes(width, [&](auto d, int64_t j) HWY_ATTR {
    return hn::Mul(hn::Mul(LoadF32(d, dy + j), hn::LoadU(d, weight + j)), LoadF32(d, x + j));
  });
  const float along = dot / static_cast<float>(width) * inverse * inverse;
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto value = LoadF32(d, x + j);
    const auto gradient = LoadF32(d, dy + j);
    const auto scale = hn::Set(d, inverse);
    const auto across =
        hn::NegMulAdd(value, hn::Set(d, along), hn::Mul(gradient, hn::LoadU(d, weight + j)));
    StoreF32(hn::MulAdd(across, scale, LoadF32(d, dx + j)), d, dx + j);
    const auto term = hn::Mul(gradient, hn::Mul(value, scale));
    hn::StoreU(hn::Add(hn::LoadU(d, weight_gradient + j), term), d, weight_gradient + j);
  });
}

void ForwardRowF32(const float* x, const float* weight, int64_t width, float epsilon, float* y,
                   float* inverse_rms) {
  ForwardRow(x, weight, width, epsilon, y, inverse_rms);
}
void ForwardRowBf16(const bf16* x, const float* weight, int64_t width, float epsilon, bf16* y,
                    float* inverse_rms) {
  ForwardRow(x, weight, width, epsilon, y, inverse_rms);
}
void BackwardRowF32(const float* x, const float* weight, float inverse, const float* dy,
                    int64_t width, float* dx, float* weight_gradient) {
  BackwardRow(x, weight, inverse, dy, width, dx, weight_gradient);
}
void BackwardRowBf16(const bf16* x, const float* weight, float inverse, const bf16* dy,
                     int64_t width, bf16* dx, float* weight_gradient) {
  BackwardRow(x, weight, inverse, dy, width, dx, weight_gradient);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(ForwardRowF32);
HWY_EXPORT(ForwardRowBf16);
HWY_EXPORT(BackwardRowF32);
HWY_EXPORT(BackwardRowBf16);

void Check(const ConstTensorView& x, const ConstTensorView& y, size_t weight, size_t rows) {
  if (x.shape.rank() != 2 || x.shape != y.shape || x.dtype != y.dtype ||
      static_cast<int64_t>(weight) != x.shape[1] || static_cast<int64_t>(rows) != x.shape[0]) {
    throw ShapeError("RMSNorm needs x and y of one type and shape [rows, width], found " +
                     x.shape.ToString() + " and " + y.shape.ToString() + ", weight " +
                     std::to_string(weight) + ", inverse_rms " + std::to_string(rows));
  }
}

}  // namespace

void RmsNormForward(Context& context, ConstTensorView x, std::span<const float> weight,
                    float epsilon, TensorView y, std::span<float> inverse_rms) {
  Check(x, y, weight.size(), inverse_rms.size());
  const int64_t width = x.shape[1];
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(ForwardRowF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(ForwardRowBf16);
  context.team.Run([&](int thread) {
    const Range range = SplitRange(x.shape[0], context.team.size(), thread);
    for (int64_t row = range.begin; row < range.end; ++row) {
      if (x.dtype == DType::kF32) {
        f32(x.at<float>(row), weight.data(), width, epsilon, y.at<float>(row), &inverse_rms[row]);
      } else {
        b16(x.at<bf16>(row), weight.data(), width, epsilon, y.at<bf16>(row), &inverse_rms[row]);
      }
    }
  });
}

void RmsNormBackward(Context& context, ConstTensorView x, std::span<const float> weight,
                     std::span<const float> inverse_rms, ConstTensorView dy, TensorView dx,
                     std::span<float> weight_gradient) {
  Check(x, dy, weight.size(), inverse_rms.size());
  Check(x, dx, weight_gradient.size(), inverse_rms.size());
  const int64_t width = x.shape[1];
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(BackwardRowF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(BackwardRowBf16);
  std::vector<std::vector<float>> partial(context.team.size(), std::vector<float>(width, 0.0f));
  context.team.Run([&](int thread) {
    const Range range = SplitRange(x.shape[0], context.team.size(), thread);
    std::vector<float>& sum = partial[thread];
    for (int64_t row = range.begin; row < range.end; ++row) {
      const float inverse = inverse_rms[row];
      if (x.dtype == DType::kF32) {
        f32(x.at<float>(row), weight.data(), inverse, dy.at<float>(row), width, dx.at<float>(row),
            sum.data());
      } else {
        b16(x.at<bf16>(row), weight.data(), inverse, dy.at<bf16>(row), width, dx.at<bf16>(row),
            sum.data());
      }
    }
  });
  for (const std::vector<float>& sum : partial) {
    for (int64_t j = 0; j < width; ++j) weight_gradient[j] += sum[j];
  }
}

}  // namespace ringwise
#endif  // HWY_ONCE
