#include "training/run_schedule.h"

#include <gtest/gtest.h>

#include "ringwise/error.h"

namespace ringwise {
namespace {

TEST(RunSchedule, FollowsSteps) {
  TrainOptions options;
  options.context_schedule = ParseContextSchedule("8x4:2,16:1,32:2");
  options.warmup = 1;
  TrainState state;
  RunSchedule schedule(options, EffectiveSchedule(options), state);
  EXPECT_EQ(schedule.total_steps(), 5);
  std::vector<int64_t> contexts;
  while (!schedule.Finished()) {
    const bool moved = schedule.Advance();
    EXPECT_EQ(moved, !contexts.empty() && contexts.back() != schedule.phase().context);
    contexts.push_back(schedule.phase().context);
    state.phase_sequences += schedule.phase().batch;
    ++state.step;
    ++state.phase_step;
  }
  EXPECT_EQ(contexts, (std::vector<int64_t>{8, 8, 16, 32, 32}));
  EXPECT_EQ(state.phase_sequences, 2);                // of the last phase alone: 2 steps of 1
  EXPECT_NEAR(schedule.LearningRate(), 1e-4, 1e-12);  // the floor
}

TEST(RunSchedule, FollowsTime) {
  TrainOptions options;
  options.context_schedule = ParseContextSchedule("8:50%,16:30%,32:20%");
  options.max_seconds = 10;
  options.warmup = 0;
  TrainState state;
  RunSchedule schedule(options, EffectiveSchedule(options), state);
  EXPECT_EQ(schedule.total_steps(), 0);
  const auto context_at = [&](double seconds) {
    state.seconds = seconds;
    schedule.Advance();
    return schedule.phase().context;
  };
  EXPECT_EQ(context_at(0), 8);
  EXPECT_DOUBLE_EQ(schedule.LearningRate(), 1e-3);
  EXPECT_EQ(context_at(4.9), 8);
  EXPECT_EQ(context_at(5.0), 16);
  EXPECT_NEAR(schedule.LearningRate(), 0.5 * (1e-3 + 1e-4), 1e-12);
  EXPECT_DOUBLE_EQ(schedule.RemainingSeconds(1, {}), 5);
  EXPECT_EQ(context_at(8.5), 32);
  EXPECT_FALSE(schedule.Finished());
  EXPECT_EQ(context_at(10), 32);
  EXPECT_TRUE(schedule.Finished());
}

TEST(RunSchedule, ASlowStepMaySkipAPhase) {
  TrainOptions options;
  options.context_schedule = ParseContextSchedule("8:50%,16:1%,32:49%");
  options.max_seconds = 10;
  TrainState state;
  RunSchedule schedule(options, EffectiveSchedule(options), state);
  state.seconds = 6;
  EXPECT_TRUE(schedule.Advance());
  EXPECT_EQ(schedule.phase().context, 32);
}

TEST(RunSchedule, RefusesAStateBeyondIt) {
  TrainOptions options;
  TrainState state = {.phase = 1};
  EXPECT_THROW(RunSchedule(options, EffectiveSchedule(options), state), UsageError);
}

}  // namespace
}  // namespace ringwise
