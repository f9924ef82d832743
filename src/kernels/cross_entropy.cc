#include "kernels/cross_entropy.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cross_entropy.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

float MaxOfRow(const float* logits, int64_t vocab) { return LargestOf(logits, vocab); }

float SumOfExponentials(const float* HWY_RESTRICT logits, int64_t vocab, float maximum) {
  return SumOverLanes(vocab, [&](auto d, int64_t j) HWY_ATTR {
    return hn::Exp(d, hn::Sub(hn::LoadU(d, logits + j), hn::Set(d, maximum)));
  });
}

void SoftmaxInPlace(float* HWY_RESTRICT logits, int64_t vocab, float maximum, float scale) {
  ForEachLane(vocab, [&](auto d, int64_t j) HWY_ATTR {
    const auto shifted = hn::Sub(hn::LoadU(d, logits + j), hn::Set(d, maximum));
    hn::StoreU(hn::Mul(hn::Exp(d, shifted), hn::Set(d, scale)), d, logits + j);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(MaxOfRow);
HWY_EXPORT(SumOfExponentials);
HWY_EXPORT(SoftmaxInPlace);

void Check(const ConstTensorView& logits, std::span<const int32_t> targets) {
  if (logits.shape.rank() != 2 || logits.dtype != DType::kF32 || !logits.contiguous() ||
      logits.shape[0] != static_cast<int64_t>(targets.size())) {
    throw ShapeError(
        "cross-entropy needs contiguous f32 logits [rows, vocab] and a target a row, "
        "found " +
        logits.shape.ToString() + " and " + std::to_string(targets.size()) + " targets");
  }
  for (const int32_t target : targets) {
    if (target >= logits.shape[1]) {
      throw ShapeError("target " + std::to_string(target) + " is outside the vocabulary of " +
                       std::to_string(logits.shape[1]));
    }
  }
}

// Calls row_loss(row) for every row that has a target, and adds the results in row order.
template <class RowLoss>
CrossEntropySum SumRows(Context& context, std::span<const int32_t> targets, RowLoss&& row_loss) {
  const auto rows = static_cast<int64_t>(targets.size());
  std::vector<double> losses(targets.size(), 0.0);
  context.team.Run([&](int thread) {
    const Range range = SplitRange(rows, context.team.size(), thread);
    for (int64_t row = range.begin; row < range.end; ++row) losses[row] = row_loss(row);
  });
  CrossEntropySum sum;
  for (int64_t row = 0; row < rows; ++row) {
    if (targets[row] < 0) continue;
    sum.nats += losses[row];
    ++sum.rows;
  }
  return sum;
}

}  // namespace

CrossEntropySum CrossEntropy(Context& context, ConstTensorView logits,
                             std::span<const int32_t> targets) {
  Check(logits, targets);
  const int64_t vocab = logits.shape[1];
  return SumRows(context, targets, [&](int64_t row) {
    if (targets[row] < 0) return 0.0;
    const float* values = logits.at<float>(row);
    const float maximum = HWY_DYNAMIC_DISPATCH(MaxOfRow)(values, vocab);
    const float sum = HWY_DYNAMIC_DISPATCH(SumOfExponentials)(values, vocab, maximum);
    return std::log(static_cast<double>(sum)) + maximum - values[targets[row]];
  });
}

CrossEntropySum CrossEntropyWithGradient(Context& context, TensorView logits,
                                         std::span<const int32_t> targets, float gradient_scale) {
  Check(logits, targets);
  const int64_t vocab = logits.shape[1];
  return SumRows(context, targets, [&](int64_t row) {
    float* values = logits.at<float>(row);
    if (targets[row] < 0) {
      std::fill_n(values, vocab, 0.0f);
      return 0.0;
    }
    const float maximum = HWY_DYNAMIC_DISPATCH(MaxOfRow)(values, vocab);
    const float sum = HWY_DYNAMIC_DISPATCH(SumOfExponentials)(values, vocab, maximum);
    const double loss = std::log(static_cast<double>(sum)) + maximum - values[targets[row]];
    HWY_DYNAMIC_DISPATCH(SoftmaxInPlace)(values, vocab, maximum, gradient_scale / sum);
    values[targets[row]] -= gradient_scale;
    return loss;
  });
}

}  // namespace ringwise
#endif  // HWY_ONCE
