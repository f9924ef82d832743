#include "kernels/optimizer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optimizer.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// The step with every constant folded: see AdamWStep.
struct AdamWFactors {
  float keep, scale, beta1, one_minus_beta1, beta2, one_minus_beta2, rate, root_scale, epsilon;
};

void AdamWRange(const float* factors_memory, float* HWY_RESTRICT value,
                const float* HWY_RESTRICT gradient, float* HWY_RESTRICT first,
                float* HWY_RESTRICT second, int64_t count) {
  const AdamWFactors f = *reinterpret_cast<const AdamWFactors*>(factors_memory);
  ForEachLane(count, [&](auto d, int64_t i) HWY_ATTR {
    const auto g = hn::Mul(hn::LoadU(d, gradient + i), hn::Set(d, f.scale));
    const auto m = hn::MulAdd(hn::Set(d, f.one_minus_beta1), g,
                              hn::Mul(hn::Set(d, f.beta1), hn::LoadU(d, first + i)));
    const auto v = hn::MulAdd(hn::Mul(hn::Set(d, f.one_minus_beta2), g), g,
                              hn::Mul(hn::Set(d, f.beta2), hn::LoadU(d, second + i)));
    const auto root = hn::MulAdd(hn::Sqrt(v), hn::Set(d, f.root_scale), hn::Set(d, f.epsilon));
    const auto kept = hn::Mul(hn::LoadU(d, value + i), hn::Set(d, f.keep));
    hn::StoreU(m, d, first + i);
    hn::StoreU(v, d, second + i);
    hn::StoreU(hn::Sub(kept, hn::Div(hn::Mul(hn::Set(d, f.rate), m), root)), d, value + i);
  });
}

double SumOfSquaresRange(const float* HWY_RESTRICT values, int64_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto x = hn::PromoteTo(d, hn::LoadU(df, values + i));
    sum = hn::MulAdd(x, x, sum);
  }
  double total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < count; ++i) total += static_cast<double>(values[i]) * values[i];
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(AdamWRange);
HWY_EXPORT(SumOfSquaresRange);

// Partial sums are of blocks of this many values, whoever adds them up.
constexpr int64_t kSumBlock = 1 << 14;
constexpr int64_t kCacheLineFloats = 16;

}  // namespace

void AdamWStep(Context& context, const AdamWOptions& options, std::span<float> value,
               std::span<const float> gradient, std::span<float> first_moment,
               std::span<float> second_moment) {
  if (gradient.size() != value.size() || first_moment.size() != value.size() ||
      second_moment.size() != value.size()) {
    throw ShapeError(
        "AdamWStep needs spans of one length, found value " + std::to_string(value.size()) +
        ", gradient " + std::to_string(gradient.size()) + ", moments " +
        std::to_string(first_moment.size()) + " and " + std::to_string(second_moment.size()));
  }
  const auto step = static_cast<double>(options.step);
  const double correction1 = 1 - std::pow(options.beta1, step);
  const double correction2 = 1 - std::pow(options.beta2, step);
  const float factors[] = {
      static_cast<float>(1 - options.learning_rate * options.weight_decay),
      static_cast<float>(options.gradient_scale),
      static_cast<float>(options.beta1),
      static_cast<float>(1 - options.beta1),
      static_cast<float>(options.beta2),
      static_cast<float>(1 - options.beta2),
      static_cast<float>(options.learning_rate / correction1),
      static_cast<float>(1 / std::sqrt(correction2)),
      static_cast<float>(options.epsilon),
  };
  const auto count = static_cast<int64_t>(value.size());
  context.team.Run([&](int thread) {
    const Range range = SplitRange(count, context.team.size(), thread, kCacheLineFloats);
    const int64_t begin = range.begin;
    HWY_DYNAMIC_DISPATCH(AdamWRange)
    (factors, value.data() + begin, gradient.data() + begin, first_moment.data() + begin,
     second_moment.data() + begin, range.size());
  });
}

double SumOfSquares(Context& context, std::span<const float> values) {
  const auto count = static_cast<int64_t>(values.size());
  const int64_t blocks = (count + kSumBlock - 1) / kSumBlock;
  std::vector<double> partial(static_cast<size_t>(blocks));
  context.team.ForEach(blocks, [&](int64_t block, int) {
    const int64_t begin = block * kSumBlock;
    partial[block] = HWY_DYNAMIC_DISPATCH(SumOfSquaresRange)(values.data() + begin,
                                                             std::min(kSumBlock, count - begin));
  });
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace ringwise
#endif  // HWY_ONCE
