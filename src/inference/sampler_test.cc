#include "inference/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ringwise/error.h"

namespace ringwise {
namespace {

TEST(Sampler, ZeroTemperatureIsGreedy) {
  const std::vector<float> logits{-3, -1, -2, -1};
  for (int index = 0; index < 10; ++index) EXPECT_EQ(SampleToken(logits, {}, index), 1);
}

TEST(Sampler, FollowsTheDistribution) {
  const std::vector<float> logits{1.0f, -2.0f, 0.5f, 2.0f, -std::numeric_limits<float>::infinity()};
  constexpr int kDraws = 40'000;
  for (const double temperature : {0.5, 1.0, 3.0}) {
    for (const int64_t top_k : {0, 1, 2, 5, 100}) {
      std::vector<double> expected(logits.size());
      double sum = 0;
      for (size_t i = 0; i < logits.size(); ++i) {
        int64_t likelier = 0;
        for (const float other : logits) likelier += other > logits[i] ? 1 : 0;
        if (top_k == 0 || likelier < top_k) expected[i] = std::exp(logits[i] / temperature);
        sum += expected[i];
      }
      std::vector<int> counts(logits.size());
      for (int i = 0; i < kDraws; ++i) {
        ++counts[static_cast<size_t>(
            SampleToken(logits, {.temperature = temperature, .top_k = top_k, .seed = 7}, i))];
      }
      for (size_t i = 0; i < logits.size(); ++i) {
        const double p = expected[i] / sum;
        const double deviation = std::sqrt(p * (1 - p) * kDraws);
        EXPECT_LE(std::abs(counts[i] - p * kDraws), 5 * deviation) << temperature << " " << top_k;
      }
    }
  }
}

TEST(Sampler, SeedAndIndexDecide) {
  const std::vector<float> logits(100, 0.0f);
  const auto draw = [&](uint64_t seed) {
    std::vector<int32_t> tokens(20);
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = SampleToken(logits, {.temperature = 1, .seed = seed}, static_cast<int64_t>(i));
    }
    return tokens;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, BrokenLogits) {
  EXPECT_THROW(SampleToken(std::vector<float>{0, NAN}, {}, 0), Error);
  EXPECT_THROW(SampleToken(std::vector<float>{INFINITY, 0}, {}, 0), Error);
  EXPECT_THROW(SampleToken(std::vector<float>{-INFINITY, -INFINITY}, {.temperature = 1}, 0), Error);
}

}  // namespace
}  // namespace ringwise
