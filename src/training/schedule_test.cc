#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ringwise/error.h"
#include "ringwise/trainer.h"
#include "training/learning_rate.h"
#include "training/metrics.h"

namespace ringwise {
namespace {

TEST(ContextSchedule, ParsesAndFormats) {
  const std::string text = "256x8:2000,2048:300,8192x1:60";
  const std::vector<ContextPhase> schedule = ParseContextSchedule(text);
  ASSERT_EQ(schedule.size(), 3u);
  EXPECT_EQ(schedule[0], (ContextPhase{.context = 256, .batch = 8, .steps = 2000}));
  EXPECT_EQ(schedule[1], (ContextPhase{.context = 2048, .batch = 0, .steps = 300}));
  EXPECT_EQ(FormatContextSchedule(schedule), text);
  const std::vector<ContextPhase> timed = ParseContextSchedule("256:62.5%,8192:37.5%");
  EXPECT_EQ(timed[0], (ContextPhase{.context = 256, .share = 0.625}));
  EXPECT_EQ(ParseContextSchedule(FormatContextSchedule(timed)), timed);
  EXPECT_TRUE(ParseContextSchedule("").empty());
  for (const char* bad : {"256", "256:", ":5", "256:x", "256x:5", "256x2x2:5", "0:5", "256:0",
                          "-1:5", "256:5,", "256:5;", "256:101%", "256:0%", "256.5:1"}) {
    EXPECT_THROW(ParseContextSchedule(bad), UsageError) << bad;
  }
}

TEST(ContextSchedule, KeepsAboutTheTokensOfTheFirstPhase) {
  TrainOptions options;
  options.batch = 9;
  options.context_schedule = ParseContextSchedule("256:5,1024:5,8192:5");
  std::vector<ContextPhase> schedule = EffectiveSchedule(options);
  EXPECT_EQ(schedule[0].batch, 9);
  EXPECT_EQ(schedule[1].batch, 2);
  EXPECT_EQ(schedule[2].batch, 1);
  options.steps = 7;  // ends early
  schedule = EffectiveSchedule(options);
  ASSERT_EQ(schedule.size(), 2u);
  EXPECT_EQ(schedule[1].steps, 2);
  options.steps = 20;  // the last phase goes on
  schedule = EffectiveSchedule(options);
  ASSERT_EQ(schedule.size(), 3u);
  EXPECT_EQ(schedule[2].steps, 10);
}

TEST(ContextSchedule, OnePhaseWithoutASchedule) {
  TrainOptions options;
  options.steps = 7;
  options.batch = 3;
  options.context = 100;
  EXPECT_EQ(EffectiveSchedule(options),
            (std::vector<ContextPhase>{{.context = 100, .batch = 3, .steps = 7}}));
}

// The slowest pair, whose wavelength is the longest, turns as far over the longer context as it did
// over the reference; the fastest always turns one radian a position.
TEST(RopeTheta, StretchesTheSlowestPairWithTheContext) {
  constexpr int64_t kDim = 32;
  const auto slowest_turn = [&](double theta, int64_t context) {
    return static_cast<double>(context) * std::pow(theta, -static_cast<double>(kDim - 2) / kDim);
  };
  const double base = 10000;
  const double longer = RopeTheta(base, 256, 8192, kDim);
  EXPECT_NEAR(slowest_turn(longer, 8192) / slowest_turn(base, 256), 1, 1e-12);
  EXPECT_EQ(RopeTheta(base, 256, 256, kDim), base);
  EXPECT_EQ(RopeTheta(base, 256, 128, kDim), base);
  EXPECT_EQ(RopeTheta(base, 256, 8192, 2), base);  // one pair: nothing to stretch
}

TEST(MeanKeys, CountsWhatATokenSeesAndItselfHalf) {
  for (const int64_t window : {0, 1, 7, 100, 5000}) {
    ModelConfig config;
    config.window = window;
    for (const int64_t context : {1, 6, 101}) {
      double pairs = 0;
      for (int64_t i = 0; i < context; ++i) {
        pairs += static_cast<double>(window > 0 ? std::min(i + 1, window) : i + 1);
      }
      EXPECT_NEAR(MeanKeys(config, context), pairs / static_cast<double>(context) - 0.5, 1e-12);
    }
  }
}

TEST(LearningRate, WarmsUpThenFollowsACosineToTheFloor) {
  const LearningRateSchedule schedule = {.peak = 2.0, .floor = 0.2, .warmup = 4};
  EXPECT_DOUBLE_EQ(schedule.At(0, -0.4), 0.5);
  EXPECT_DOUBLE_EQ(schedule.At(1, -0.3), 1.0);
  EXPECT_DOUBLE_EQ(schedule.At(3, -0.1), 2.0);
  EXPECT_DOUBLE_EQ(schedule.At(4, 0.0), 2.0);
  EXPECT_DOUBLE_EQ(schedule.At(9, 0.25), 0.2 + 0.9 * (1 + std::cos(std::numbers::pi / 4)));
  EXPECT_DOUBLE_EQ(schedule.At(9, 0.5), 1.1);
  EXPECT_DOUBLE_EQ(schedule.At(99, 1.0), 0.2);
  EXPECT_DOUBLE_EQ(schedule.At(99, 1.5), 0.2);
  const LearningRateSchedule none = {.peak = 2.0, .floor = 2.0, .warmup = 0};
  EXPECT_DOUBLE_EQ(none.At(0, 0.0), 2.0);
}

}  // namespace
}  // namespace ringwise
