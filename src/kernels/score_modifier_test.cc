#include "kernels/score_modifier.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "hwy/targets.h"
#include "kernels/tile_kernels.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kUnit = 0x1p-24;  // half a unit in the last place, relative

template <class Check>
void ForEachTarget(const Check& check) {
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

struct Score {
  double score, slope;
};
Score Reference(double scale, double cap, double product, double added) {
  const double x = scale * product;
  if (cap == 0) return {std::numbers::log2e * (x + added), 1.0};
  const double cosh = std::cosh(x / cap);
  return {std::numbers::log2e * (cap * std::tanh(x / cap) + added), 1 / (cosh * cosh)};
}

std::vector<float> Normal(int64_t count, uint64_t stream, float scale) {
  Random random(1, stream);
  std::vector<float> values(count);
  for (float& value : values) value = scale * random.Normal();
  return values;
}

TEST(ScoreModifier, EqualsTheFormula) {
  ForEachTarget([] {
    for (const double cap : {0.0, 0.01, 1.0, 30.0, 1e4}) {
      for (const double scale : {1.0, 0.125, -3.0, 0.0}) {
        for (const int columns : {1, 17, 64}) {
          for (const bool adds : {false, true}) {
            constexpr int kRows = 5;
            // Products from far below to far above the cap.
            auto products = Normal(kRows * kPanel, 1, 1.0f);
            Random random(1, 9);
            for (float& product : products) {
              product *= std::exp2(static_cast<float>(random.Below(30)) - 15.0f);
            }
            const auto added = Normal(kRows * kPanel, 2, 10.0f);
            auto scores = products;
            std::vector<float> slopes(kRows * kPanel, 9.0f);
            const ScoreModifier modifier(scale, cap);
            modifier.Apply(kRows, columns, adds ? added.data() : nullptr, scores.data(),
                           slopes.data());
            auto without = products;
            modifier.Apply(kRows, columns, adds ? added.data() : nullptr, without.data(), nullptr);
            for (int at = 0; at < kRows * kPanel; ++at) {
              if (at % kPanel >= columns) {
                if (at % kPanel >= (columns + kLanes - 1) / kLanes * kLanes) {
                  ASSERT_EQ(scores[at], products[at]) << "overwritten";
                  ASSERT_EQ(slopes[at], 9.0f) << "overwritten";
                }
                continue;
              }
              ASSERT_EQ(scores[at], without[at]);
              const Score expected = Reference(scale, cap, products[at], adds ? added[at] : 0.0);
              const Score capped = Reference(scale, cap, products[at], 0.0);
              const double added_size = adds ? std::abs(added[at]) * std::numbers::log2e : 0.0;
              ASSERT_NEAR(scores[at], expected.score,
                          kUnit * (6 * std::abs(capped.score) + 3 * added_size) + 1e-37)
                  << "cap " << cap << ", scale " << scale << ", product " << products[at];
              // The argument's rounding is magnified by the argument.
              const double argument = cap == 0 ? 0 : std::abs(scale * products[at] / cap);
              ASSERT_NEAR(slopes[at], expected.slope,
                          kUnit * (8 + 6 * argument) * expected.slope + 1e-37)
                  << "cap " << cap << ", scale " << scale << ", product " << products[at];
            }
          }
        }
      }
    }
  });
}

TEST(ScoreModifier, InfinityAndNaN) {
  ForEachTarget([] {
    std::vector<float> scores(kPanel, 0.5f), slopes(kPanel), added(kPanel, 0.0f);
    scores[1] = kInfinity;
    scores[2] = -kInfinity;
    scores[3] = std::nanf("");
    scores[4] = std::numeric_limits<float>::max();
    added[5] = -kInfinity;
    added[6] = kInfinity;
    added[7] = std::nanf("");
    ScoreModifier(2.0, 3.0).Apply(1, kPanel, added.data(), scores.data(), slopes.data());
    const auto cap = static_cast<float>(3 * std::numbers::log2e);
    EXPECT_FLOAT_EQ(scores[1], cap);
    EXPECT_FLOAT_EQ(scores[2], -cap);
    EXPECT_TRUE(std::isnan(scores[3]));
    EXPECT_FLOAT_EQ(scores[4], cap);
    EXPECT_EQ(scores[5], -kInfinity);
    EXPECT_EQ(scores[6], kInfinity);
    EXPECT_TRUE(std::isnan(scores[7]));
    for (const int column : {1, 2, 4}) EXPECT_EQ(slopes[column], 0.0f);
    EXPECT_TRUE(std::isnan(slopes[3]));
    uint64_t visible[] = {~uint64_t{0} << 2};
    HideMinusInfinity(added.data(), 1, kPanel, visible);
    EXPECT_EQ(visible[0], (~uint64_t{0} << 2) & ~(uint64_t{1} << 5));
    // Infinite products without a cap stay infinite.
    scores.assign(kPanel, -kInfinity);
    ScoreModifier(1.0, 0.0).Apply(1, kPanel, nullptr, scores.data(), nullptr);
    EXPECT_EQ(scores[0], -kInfinity);
  });
}

TEST(ScoreModifier, HidesEveryColumn) {
  ForEachTarget([] {
    for (int column = 0; column < kPanel; ++column) {
      std::vector<float> added(2 * kPanel, 0.0f);
      added[kPanel + column] = column % 2 == 0 ? -kInfinity : std::numeric_limits<float>::lowest();
      added[column] = column % 2 == 0 ? std::nanf("") : -2.2e38f;
      uint64_t visible[] = {~uint64_t{0}, ~uint64_t{0}};
      HideMinusInfinity(added.data(), 2, kPanel, visible);
      EXPECT_EQ(visible[0], ~uint64_t{0});
      EXPECT_EQ(visible[1], ~(uint64_t{1} << column));
    }
  });
}

TEST(ScoreModifier, SubtractsDistances) {
  ForEachTarget([] {
    const auto before = Normal(3 * kPanel, 3, 1.0f);
    auto added = before;
    SubtractDistances(0.25f, -40.0f, 5.0f, 2.0f, 3, kPanel, added.data());
    for (int at = 0; at < 3 * kPanel; ++at) {
      const double distance = std::abs(-40 - 5 * (at / kPanel) + 2 * (at % kPanel));
      ASSERT_NEAR(added[at], before[at] - 0.25 * distance, 4 * kUnit * (1 + 0.25 * distance));
    }
  });
}

}  // namespace
}  // namespace ringwise
