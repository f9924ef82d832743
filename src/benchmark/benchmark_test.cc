#include "ringwise/benchmark.h"

#include <gtest/gtest.h>

#include "benchmark/timing.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

TEST(CallTimes, SummarizesByMedianAndQuartiles) {
  BenchmarkResult result;
  CallTimes times;
  for (const double seconds : {5, 1, 2, 4, 3}) times.Add(seconds, 2 * seconds);
  times.Summarize(result);
  EXPECT_EQ(result.calls, 5);
  EXPECT_EQ(result.seconds, 3);
  EXPECT_EQ(result.best_seconds, 1);
  EXPECT_DOUBLE_EQ(result.spread, 2.0 / 3);
  EXPECT_DOUBLE_EQ(result.cores, 2);
}

TEST(CallTimes, ThreeCallsAtLeast) {
  CallTimes times;
  times.Add(9, 0);
  times.Add(9, 0);
  EXPECT_FALSE(times.Enough(1));
  times.Add(1, 0);
  EXPECT_TRUE(times.Enough(1));
  EXPECT_FALSE(times.Enough(20));
}

TEST(AttentionFlops, CountsAsFlashAttention) {
  AttentionProblem problem{.batch = 1, .seq = 100, .heads = 2, .head_dim = 8};
  problem.direction = Direction::kForward;
  const double full = 4.0 * 100 * 100 * 8 * 2;
  EXPECT_EQ(AttentionFlops(problem), full);
  problem.causal = true;
  EXPECT_EQ(AttentionFlops(problem), full / 2);
  problem.direction = Direction::kBackward;
  EXPECT_EQ(AttentionFlops(problem), 2.5 * full / 2);
  problem.direction = Direction::kForwardBackward;
  EXPECT_EQ(AttentionFlops(problem), 3.5 * full / 2);
  // The queries are the last 100 of 300 positions: 200 keys are seen by all, 100 by half.
  problem.direction = Direction::kForward;
  problem.kv_seq = 300;
  EXPECT_EQ(AttentionFlops(problem), full * 2.5);
}

TEST(BenchmarkAttention, ChecksAndTimesEveryDirection) {
  for (const Direction direction :
       {Direction::kForward, Direction::kBackward, Direction::kForwardBackward}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      AttentionProblem problem{.seq = 130, .heads = 3, .kv_heads = 1, .head_dim = 32};
      problem.dtype = dtype;
      problem.causal = true;
      problem.direction = direction;
      const auto result = BenchmarkAttention({.ring = 3, .threads = 1}, problem, 0);
      ASSERT_TRUE(result);
      EXPECT_EQ(result->ring, 3);
      EXPECT_EQ(result->threads, 1);
      EXPECT_GE(result->calls, 3);
      EXPECT_GT(result->share_of_peak(), 0);
      EXPECT_GT(result->cores, 0);
      EXPECT_GE(result->best_share_of_peak(), result->share_of_peak());
    }
  }
}

TEST(BenchmarkAttention, RefusesShapesThatDoNotFit) {
  EXPECT_THROW(BenchmarkAttention({}, {.seq = 8, .heads = 3, .kv_heads = 2}, 0), UsageError);
  EXPECT_THROW(BenchmarkAttention({}, {.seq = 0}, 0), UsageError);
  EXPECT_THROW(BenchmarkAttention({}, {.seq = 8, .head_dim = 257}, 0), UsageError);
  EXPECT_THROW(BenchmarkAttention({.data_parallel = 2}, {.seq = 8}, 0), UsageError);
}

TEST(BenchmarkGemm, ChecksAndTimes) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const BenchmarkResult result =
        BenchmarkGemm(2, {.m = 100, .n = 70, .k = 50, .dtype = dtype}, 0.01);
    EXPECT_EQ(result.threads, 2);
    EXPECT_GE(result.calls, 3);
    EXPECT_GT(result.share_of_peak(), 0);
  }
  EXPECT_THROW(BenchmarkGemm(1, {.m = 0}, 0), UsageError);
}

}  // namespace
}  // namespace ringwise
