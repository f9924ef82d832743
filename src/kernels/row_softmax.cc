#include "kernels/row_softmax.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/row_softmax.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

template <class T>
void ForwardRow(const float* HWY_RESTRICT scores, int64_t keys, float scale,
                T* HWY_RESTRICT probabilities) {
  const float largest = LargestOf(scores, keys);
  const bool sees_nothing = largest == -std::numeric_limits<float>::infinity();
  if (sees_nothing || std::isnan(largest)) {
    std::fill_n(probabilities, keys, T(sees_nothing ? 0.0f : largest));
    return;
  }
  const auto exponential = [&](auto d, int64_t j) HWY_ATTR {
    const auto below = hn::Sub(hn::LoadU(d, scores + j), hn::Set(d, largest));
    return hn::Exp(d, hn::Mul(below, hn::Set(d, scale)));
  };
  const float sum = SumOverLanes(keys, exponential);
  ForEachLane(keys, [&](auto d, int64_t j) HWY_ATTR {
    StoreF32(hn::Mul(exponential(d, j), hn::Set(d, 1 / sum)), d, probabilities + j);
  });
}

template <class T>
void BackwardRow(const T* HWY_RESTRICT probabilities, const float* HWY_RESTRICT gradient,
                 int64_t keys, float scale, T* HWY_RESTRICT score_gradient) {
  const float mean = SumOverLanes(keys, [&](auto d, int64_t j) HWY_ATTR {
    return hn::Mul(LoadF32(d, probabilities + j), hn::LoadU(d, gradient + j));
  });
  ForEachLane(keys, [&](auto d, int64_t j) HWY_ATTR {
    const auto p = hn::Mul(LoadF32(d, probabilities + j), hn::Set(d, scale));
    const auto over = hn::Sub(hn::LoadU(d, gradient + j), hn::Set(d, mean));
    StoreF32(hn::Mul(p, over), d, score_gradient + j);
  });
}

void ForwardRowF32(const float* scores, int64_t keys, float scale, float* probabilities) {
  ForwardRow(scores, keys, scale, probabilities);
}
void ForwardRowBf16(const float* scores, int64_t keys, float scale, bf16* probabilities) {
  ForwardRow(scores, keys, scale, probabilities);
}
void BackwardRowF32(const float* probabilities, const float* gradient, int64_t keys, float scale,
                    float* score_gradient) {
  BackwardRow(probabilities, gradient, keys, scale, score_gradient);
}
void BackwardRowBf16(const bf16* probabilities, const float* gradient, int64_t keys, float scale,
                     bf16* score_gradient) {
  BackwardRow(probabilities, gradient, keys, scale, score_gradient);
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

// Either way: one tensor in f32, the others of one type.
void Check(const ConstTensorView& wide, const ConstTensorView& a, const ConstTensorView& b) {
  const auto fits = [&](const ConstTensorView& view) {
    return view.shape == wide.shape && view.contiguous() && view.dtype == a.dtype;
  };
  if (wide.shape.rank() == 2 && wide.dtype == DType::kF32 && wide.contiguous() && fits(a) &&
      fits(b)) {
    return;
  }
  throw ShapeError("softmax of rows needs contiguous [rows, keys] of one shape, found " +
                   wide.shape.ToString() + ", " + a.shape.ToString() + " and " +
                   b.shape.ToString());
}

template <class Body>
void ForEachRow(Context& context, int64_t rows, const Body& body) {
  context.team.Run([&](int thread) {
    const Range range = SplitRange(rows, context.team.size(), thread);
    for (int64_t row = range.begin; row < range.end; ++row) body(row);
  });
}

}  // namespace

void RowSoftmaxForward(Context& context, ConstTensorView scores, float scale,
                       TensorView probabilities) {
  Check(scores, probabilities, probabilities);
  const int64_t keys = scores.shape[1];
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(ForwardRowF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(ForwardRowBf16);
  ForEachRow(context, scores.shape[0], [&](int64_t row) {
    if (probabilities.dtype == DType::kF32) {
      f32(scores.at<float>(row), keys, scale, probabilities.at<float>(row));
    } else {
      b16(scores.at<float>(row), keys, scale, probabilities.at<bf16>(row));
    }
  });
}

void RowSoftmaxBackward(Context& context, ConstTensorView probabilities,
                        ConstTensorView probability_gradient, float scale,
                        TensorView score_gradient) {
  Check(probability_gradient, probabilities, score_gradient);
  const int64_t keys = probabilities.shape[1];
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(BackwardRowF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(BackwardRowBf16);
  ForEachRow(context, probabilities.shape[0], [&](int64_t row) {
    const float* gradient = probability_gradient.at<float>(row);
    if (probabilities.dtype == DType::kF32) {
      f32(probabilities.at<float>(row), gradient, keys, scale, score_gradient.at<float>(row));
    } else {
      b16(probabilities.at<bf16>(row), gradient, keys, scale, score_gradient.at<bf16>(row));
    }
  });
}

}  // namespace ringwise
#endif  // HWY_ONCE
