#include "kernels/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

std::vector<float> Normals(int64_t count, uint64_t stream) {
  Random random(11, stream);
  std::vector<float> values(count);
  for (float& value : values) value = random.Normal();
  return values;
}

TEST(AdamWStep, FollowsTheFormulaInDouble) {
  MemoryMeter meter;
  for (const int threads : {1, 3}) {
    ThreadTeam team(threads);
    Context context{team, meter};
    for (const int64_t count : {0, 1, 17, 1000}) {
      std::vector<float> value = Normals(count, 1);
      std::vector<float> first(count, 0.0f);
      std::vector<float> second(count, 0.0f);
      std::vector<double> x(value.begin(), value.end());
      std::vector<double> m(count, 0.0);
      std::vector<double> v(count, 0.0);
      for (int step = 1; step <= 5; ++step) {
        const std::vector<float> gradient = Normals(count, 100 + step);
        const AdamWOptions options{
            .learning_rate = 1e-2, .weight_decay = 0.1, .gradient_scale = 0.5, .step = step};
        AdamWStep(context, options, value, gradient, first, second);
        for (int64_t i = 0; i < count; ++i) {
          const double g = 0.5 * gradient[i];
          x[i] -= 1e-2 * 0.1 * x[i];
          m[i] = 0.9 * m[i] + 0.1 * g;
          v[i] = 0.95 * v[i] + 0.05 * g * g;
          const double m_hat = m[i] / (1 - std::pow(0.9, step));
          const double v_hat = v[i] / (1 - std::pow(0.95, step));
          x[i] -= 1e-2 * m_hat / (std::sqrt(v_hat) + 1e-8);
        }
      }
      // Five roundings of values of size 4 and of steps of 1e-2.
      for (int64_t i = 0; i < count; ++i) EXPECT_NEAR(value[i], x[i], 5 * 4 * 6e-8 + 5e-2 * 1e-6);
    }
  }
}

TEST(AdamWStep, RejectsSpansOfDifferentLengths) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  std::vector<float> three(3);
  std::vector<float> two(2);
  EXPECT_THROW(AdamWStep(context, {}, three, two, three, three), ShapeError);
}

TEST(SumOfSquares, IsTheSameForAnyNumberOfThreads) {
  MemoryMeter meter;
  const std::vector<float> values = Normals(100003, 5);
  double expected = 0;
  for (const float x : values) expected += static_cast<double>(x) * x;
  ThreadTeam one(1);
  Context alone{one, meter};
  const double sum = SumOfSquares(alone, values);
  EXPECT_NEAR(sum, expected, 1e-12 * expected);
  for (const int threads : {2, 5}) {
    ThreadTeam team(threads);
    Context context{team, meter};
    EXPECT_EQ(SumOfSquares(context, values), sum);
  }
  EXPECT_EQ(SumOfSquares(alone, {}), 0.0);
  const std::vector<float> bad = {1.0f, std::numeric_limits<float>::quiet_NaN(), 1.0f};
  EXPECT_TRUE(std::isnan(SumOfSquares(alone, bad)));
}

}  // namespace
}  // namespace ringwise
