#include "kernels/layer_norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layer_norm.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <string>

#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// The row of gain and bias that a row takes.
HWY_INLINE int64_t WeightRow(const NormRows& norm, int64_t row) {
  return norm.weight_rows.empty() ? 0 : norm.weight_rows[row];
}

template <class D>
HWY_INLINE hn::Vec<D> Normal(D d, hn::Vec<D> x, float mean, float inverse) {
  return hn::Mul(hn::Sub(x, hn::Set(d, mean)), hn::Set(d, inverse));
}

template <class T>
void MomentsOfRow(const T* HWY_RESTRICT x, int64_t width, float* mean, float* deviations) {
  const float sum =
      SumOverLanes(width, [&](auto d, int64_t j) HWY_ATTR { return LoadF32(d, x + j); });
  const float center = sum / static_cast<float>(width);
  *mean = center;
  *deviations = SumOverLanes(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto away = hn::Sub(LoadF32(d, x + j), hn::Set(d, center));
    return hn::Mul(away, away);
  });
}

template <class T>
void ForwardRow(const T* HWY_RESTRICT x, float mean, float inverse, const float* HWY_RESTRICT gain,
                const float* HWY_RESTRICT bias, int64_t width, T* HWY_RESTRICT y) {
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto normal = Normal(d, LoadF32(d, x + j), mean, inverse);
    StoreF32(hn::MulAdd(normal, hn::LoadU(d, gain + j), hn::LoadU(d, bias + j)), d, y + j);
  });
}

template <class T>
void SumsOfRow(const T* HWY_RESTRICT x, float mean, float inverse, const float* HWY_RESTRICT gain,
               const T* HWY_RESTRICT dy, int64_t width, float* gradient, float* product) {
  *gradient = SumOverLanes(width, [&](auto d, int64_t j) HWY_ATTR {
    return hn::Mul(LoadF32(d, dy + j), hn::LoadU(d, gain + j));
  });
  *product = SumOverLanes(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto scaled = hn::Mul(LoadF32(d, dy + j), hn::LoadU(d, gain + j));
    return hn::Mul(scaled, Normal(d, LoadF32(d, x + j), mean, inverse));
  });
}

template <class T>
void InputGradientOfRow(const T* HWY_RESTRICT x, float mean, float inverse,
                        const float* HWY_RESTRICT gain, float gradient, float product,
                        int64_t width, T* HWY_RESTRICT dy) {
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto normal = Normal(d, LoadF32(d, x + j), mean, inverse);
    const auto along = hn::MulAdd(normal, hn::Set(d, product), hn::Set(d, gradient));
    const auto across = hn::MulSub(LoadF32(d, dy + j), hn::LoadU(d, gain + j), along);
    StoreF32(hn::Mul(across, hn::Set(d, inverse)), d, dy + j);
  });
}

template <class T>
void AddWeightGradientsOfRow(const T* HWY_RESTRICT x, float mean, float inverse,
                             const T* HWY_RESTRICT dy, int64_t width,
                             float* HWY_RESTRICT gain_gradient, float* HWY_RESTRICT bias_gradient) {
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto normal = Normal(d, LoadF32(d, x + j), mean, inverse);
    const auto change = LoadF32(d, dy + j);
    hn::StoreU(hn::MulAdd(change, normal, hn::LoadU(d, gain_gradient + j)), d, gain_gradient + j);
    hn::StoreU(hn::Add(change, hn::LoadU(d, bias_gradient + j)), d, bias_gradient + j);
  });
}

// The ranges of rows below are one thread's.

void MomentsOfRows(const ConstTensorView& x, Range rows, std::span<float> mean,
                   std::span<float> deviations) {
  const int64_t width = x.shape[1];
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    if (x.dtype == DType::kF32) {
      MomentsOfRow(x.at<float>(row), width, &mean[row], &deviations[row]);
    } else {
      MomentsOfRow(x.at<bf16>(row), width, &mean[row], &deviations[row]);
    }
  }
}

void ForwardOfRows(const ConstTensorView& x, const NormRows& norm, const ConstTensorView& bias,
                   Range rows, const TensorView& y) {
  const int64_t width = x.shape[1];
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t k = WeightRow(norm, row);
    const float mean = norm.mean[row];
    const float inverse = norm.inverse[row];
    const float* const gain = norm.gain.at<float>(k);
    if (x.dtype == DType::kF32) {
      ForwardRow(x.at<float>(row), mean, inverse, gain, bias.at<float>(k), width, y.at<float>(row));
    } else {
      ForwardRow(x.at<bf16>(row), mean, inverse, gain, bias.at<float>(k), width, y.at<bf16>(row));
    }
  }
}

void SumsOfRows(const ConstTensorView& x, const NormRows& norm, const ConstTensorView& dy,
                Range rows, std::span<float> gradient, std::span<float> product) {
  const int64_t width = x.shape[1];
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float mean = norm.mean[row];
    const float inverse = norm.inverse[row];
    const float* const gain = norm.gain.at<float>(WeightRow(norm, row));
    if (x.dtype == DType::kF32) {
      SumsOfRow(x.at<float>(row), mean, inverse, gain, dy.at<float>(row), width, &gradient[row],
                &product[row]);
    } else {
      SumsOfRow(x.at<bf16>(row), mean, inverse, gain, dy.at<bf16>(row), width, &gradient[row],
                &product[row]);
    }
  }
}

void InputGradientOfRows(const ConstTensorView& x, const NormRows& norm,
                         std::span<const float> gradient, std::span<const float> product,
                         Range rows, const TensorView& dy) {
  const int64_t width = x.shape[1];
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float mean = norm.mean[row];
    const float inverse = norm.inverse[row];
    const float* const gain = norm.gain.at<float>(WeightRow(norm, row));
    if (x.dtype == DType::kF32) {
      InputGradientOfRow(x.at<float>(row), mean, inverse, gain, gradient[row], product[row], width,
                         dy.at<float>(row));
    } else {
      InputGradientOfRow(x.at<bf16>(row), mean, inverse, gain, gradient[row], product[row], width,
                         dy.at<bf16>(row));
    }
  }
}

// Of all rows, and one thread's columns.
void AddWeightGradients(const ConstTensorView& x, const NormRows& norm, const ConstTensorView& dy,
                        Range columns, const TensorView& gain_gradient,
                        const TensorView& bias_gradient) {
  const int64_t first = columns.begin;
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    const int64_t k = WeightRow(norm, row);
    const float mean = norm.mean[row];
    const float inverse = norm.inverse[row];
    float* const gain = gain_gradient.at<float>(k, first);
    float* const bias = bias_gradient.at<float>(k, first);
    if (x.dtype == DType::kF32) {
      AddWeightGradientsOfRow(x.at<float>(row, first), mean, inverse, dy.at<float>(row, first),
                              columns.size(), gain, bias);
    } else {
      AddWeightGradientsOfRow(x.at<bf16>(row, first), mean, inverse, dy.at<bf16>(row, first),
                              columns.size(), gain, bias);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(MomentsOfRows);
HWY_EXPORT(ForwardOfRows);
HWY_EXPORT(SumsOfRows);
HWY_EXPORT(InputGradientOfRows);
HWY_EXPORT(AddWeightGradients);

constexpr int64_t kLineFloats = 16;

void Require(bool holds, const ConstTensorView& x, const char* what) {
  if (holds) return;
  throw ShapeError(std::string("layer norm of x ") + x.shape.ToString() + ": " + what);
}

void Check(const ConstTensorView& x, const NormRows& norm, const ConstTensorView& other) {
  Require(x.shape.rank() == 2, x, "expected [rows, width]");
  const auto rows = static_cast<size_t>(x.shape[0]);
  Require(norm.mean.size() == rows && norm.inverse.size() == rows, x,
          "mean and inverse need a value a row");
  Require(norm.weight_rows.empty() || norm.weight_rows.size() == rows, x,
          "weight_rows needs a value a row, or none");
  Require(norm.gain.shape.rank() == 2 && norm.gain.shape[1] == x.shape[1] &&
              norm.gain.dtype == DType::kF32,
          x, "gain must be f32 [weight rows, width]");
  Require(other.shape == x.shape && other.dtype == x.dtype, x,
          "y and dy must have x's shape and type");
}

// body(range of rows) on every thread.
template <class Body>
void ForRows(Context& context, int64_t rows, Body&& body) {
  context.team.Run([&](int thread) { body(SplitRange(rows, context.team.size(), thread)); });
}

}  // namespace

void RowMoments(Context& context, ConstTensorView x, std::span<float> mean,
                std::span<float> deviations) {
  Require(x.shape.rank() == 2 && mean.size() == static_cast<size_t>(x.shape[0]) &&
              deviations.size() == mean.size(),
          x, "mean and deviations need a value a row of [rows, width]");
  auto* const moments = &HWY_DYNAMIC_DISPATCH(MomentsOfRows);
  ForRows(context, x.shape[0], [&](Range rows) { moments(x, rows, mean, deviations); });
}

void LayerNormForward(Context& context, ConstTensorView x, const NormRows& rows,
                      ConstTensorView bias, TensorView y) {
  Check(x, rows, y);
  Require(bias.shape == rows.gain.shape && bias.dtype == DType::kF32, x, "bias must be as gain");
  auto* const forward = &HWY_DYNAMIC_DISPATCH(ForwardOfRows);
  ForRows(context, x.shape[0], [&](Range range) { forward(x, rows, bias, range, y); });
}

void LayerNormBackwardSums(Context& context, ConstTensorView x, const NormRows& rows,
                           ConstTensorView dy, std::span<float> gradient,
                           std::span<float> product) {
  Check(x, rows, dy);
  auto* const sums = &HWY_DYNAMIC_DISPATCH(SumsOfRows);
  ForRows(context, x.shape[0], [&](Range range) { sums(x, rows, dy, range, gradient, product); });
}

void LayerNormBackward(Context& context, ConstTensorView x, const NormRows& rows,
                       std::span<const float> gradient, std::span<const float> product,
                       TensorView dy, TensorView gain_gradient, TensorView bias_gradient) {
  Check(x, rows, dy);
  Require(gain_gradient.shape == rows.gain.shape && bias_gradient.shape == rows.gain.shape, x,
          "the gradients of gain and bias must be as gain");
  auto* const weights = &HWY_DYNAMIC_DISPATCH(AddWeightGradients);
  auto* const inputs = &HWY_DYNAMIC_DISPATCH(InputGradientOfRows);
  // Split by columns: a weight's gradient is then summed by one thread, in order.
  context.team.Run([&](int thread) {
    const Range columns = SplitRange(x.shape[1], context.team.size(), thread, kLineFloats);
    weights(x, rows, dy, columns, gain_gradient, bias_gradient);
  });
  ForRows(context, x.shape[0], [&](Range range) { inputs(x, rows, gradient, product, range, dy); });
}

}  // namespace ringwise
#endif  // HWY_ONCE
