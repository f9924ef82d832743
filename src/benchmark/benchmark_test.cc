#include "ringwise/benchmark.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

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
  EXPECT_DOUBLE_EQ(result.mean_seconds, 3);
  EXPECT_DOUBLE_EQ(result.spread, 2.0 / 3);
  EXPECT_DOUBLE_EQ(result.cores, 2);
}

TEST(CallTimes, SpeedRatioIsTheMedianOfTurns) {
  CallTimes own, other;  // a neighbour comes after the first turn
  for (const double seconds : {1, 4, 5}) own.Add(seconds, 0);
  for (const double seconds : {2, 12, 10}) other.Add(seconds, 0);
  EXPECT_EQ(own.SpeedRatio(other), 2);
}

TEST(PeakSamples, BestAndMean) {
  PeakSamples samples;
  samples.Add({.best = 5, .sustained = 2});
  samples.Add({.best = 4, .sustained = 3});
  EXPECT_EQ(samples.best(), 5);
  EXPECT_EQ(samples.sustained(), 2.5);
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

TEST(AttentionFlops, CountsThePairsThatSeeEachOther) {
  AttentionProblem problem{.seq = 100, .heads = 2, .head_dim = 8, .direction = Direction::kForward};
  const double pair = 4.0 * 8 * 2;
  problem.window_left = 3;
  problem.window_right = 0;
  EXPECT_EQ(AttentionFlops(problem), pair * (100 * 4 - (1 + 2 + 3)));
  // Documents of 10 tokens each: ten squares, then ten triangles with their diagonals.
  problem.window_left = problem.window_right = std::nullopt;
  problem.documents = {10, 10};
  EXPECT_EQ(AttentionFlops(problem), pair * 10 * 100);
  problem.causal = true;
  EXPECT_EQ(AttentionFlops(problem), pair * 10 * 55);
  // Two sequences draw other lengths.
  problem.documents = {1, 30};
  const double one = AttentionFlops(problem);
  problem.batch = 2;
  EXPECT_NE(AttentionFlops(problem), 2 * one);
}

AttentionBenchmarkResult Measure(const MeshOptions& mesh, const AttentionBenchmark& benchmark) {
  std::vector<AttentionBenchmarkResult> results;
  BenchmarkAttention(
      mesh, {benchmark}, {.min_seconds = 0},
      [&](const AttentionBenchmark& measured, const AttentionBenchmarkResult& result) {
        EXPECT_EQ(measured.name, benchmark.name);
        results.push_back(result);
      });
  EXPECT_EQ(results.size(), 1u);
  EXPECT_GE(results[0].calls, 3);
  EXPECT_GT(results[0].share_of_peak(), 0);
  EXPECT_GE(results[0].best_share_of_peak(), results[0].share_of_peak());
  EXPECT_GT(results[0].sustained_flops, 0);
  return results[0];
}

TEST(BenchmarkAttention, ChecksAndTimesEveryDirection) {
  for (const Direction direction :
       {Direction::kForward, Direction::kBackward, Direction::kForwardBackward}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      AttentionProblem problem{.seq = 130, .heads = 3, .kv_heads = 1, .head_dim = 32};
      problem.dtype = dtype;
      problem.causal = true;
      problem.direction = direction;
      const auto result = Measure({.ring = 3, .threads = 1}, {"one", problem});
      EXPECT_EQ(result.ring, 3);
      EXPECT_EQ(result.threads, 1);
      EXPECT_GT(result.cores, 0);
      EXPECT_EQ(result.reference_seconds, 0);
      EXPECT_EQ(result.bytes_read, 0);
    }
  }
}

// Contiguous: the last of three ranks sees 50 keys of 90 a query on average more than the first.
TEST(BenchmarkAttention, CountsWorkAndBytes) {
  AttentionProblem problem{.seq = 90, .heads = 1, .head_dim = 8, .causal = true};
  problem.direction = Direction::kForward;
  problem.layout = Layout::kContiguous;
  const auto contiguous = Measure({.ring = 3, .threads = 1}, {"contiguous", problem});
  const double pairs = 90 * 91 / 2.0;
  const double last = 30 * 60 + 30 * 31 / 2.0;
  EXPECT_DOUBLE_EQ(contiguous.attention_work, last * 3 / pairs);
  // Block 0 goes two hops and block 1 one; each holds 30 keys and values of 8 floats at least.
  EXPECT_GE(contiguous.bytes_sent, 3 * 30 * 2 * 8 * 4);
  EXPECT_GE(contiguous.most_sent, 2 * 30 * 2 * 8 * 4);
  EXPECT_LT(contiguous.most_sent, contiguous.bytes_sent);
  problem.layout = Layout::kStriped;
  const auto striped = Measure({.ring = 3, .threads = 1}, {"striped", problem});
  EXPECT_LT(striped.attention_work, 1.03);
  EXPECT_GT(striped.bytes_sent, contiguous.bytes_sent);
}

TEST(BenchmarkAttention, TimesAReferenceInTurns) {
  AttentionProblem problem{.seq = 70, .heads = 2, .head_dim = 16};
  for (const bool on_one_rank : {false, true}) {
    const auto result =
        Measure({.ring = 2, .threads = 1}, {.name = "both",
                                            .problem = problem,
                                            .reference = AttentionReference{problem, on_one_rank}});
    EXPECT_GT(result.reference_seconds, 0);
    EXPECT_GT(result.speed_ratio, 0);
  }
}

// With keys enough to be read where they lie.
TEST(BenchmarkAttention, DecodingIsMeasuredAgainstReading) {
  AttentionProblem problem{.seq = 2, .kv_seq = 17000, .heads = 4, .kv_heads = 2, .head_dim = 16};
  problem.direction = Direction::kForward;
  const auto result = Measure({.threads = 1}, {"decode", problem});
  EXPECT_EQ(result.bytes_read, 2.0 * 17000 * 2 * 16 * 4);
  EXPECT_GT(result.share_of_bandwidth(), 0);
  EXPECT_GE(result.share_of_limit(), 0.999 * result.share_of_bandwidth());
}

TEST(BenchmarkAttention, RefusesShapesThatDoNotFit) {
  const auto refuse = [](const MeshOptions& mesh, const AttentionProblem& problem) {
    EXPECT_THROW(BenchmarkAttention(mesh, {{"wrong", problem}}, {}, [](auto&, auto&) {}),
                 UsageError);
  };
  refuse({}, {.seq = 8, .heads = 3, .kv_heads = 2});
  refuse({}, {.seq = 0});
  refuse({}, {.seq = 8, .head_dim = 257});
  refuse({}, {.seq = 8, .window_left = -1});
  refuse({}, {.seq = 8, .documents = {0, 4}});
  refuse({}, {.seq = 8, .documents = {5, 4}});
  refuse({.data_parallel = 2}, {.seq = 8});
}

TEST(Cases, HaveNamesOfTheirOwn) {
  std::vector<std::string> names;
  for (const auto& benchmark : AttentionBenchmarks()) names.push_back(benchmark.name);
  for (const auto& benchmark : RingBenchmarks()) names.push_back(benchmark.name);
  for (const auto& benchmark : TrainBenchmarks()) names.push_back(benchmark.name);
  std::ranges::sort(names);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
}

TEST(Cases, AreSelectedByPatternsInTheirOrder) {
  const std::vector<std::string> names = {"a-f32", "a-bf16", "b-f32"};
  EXPECT_EQ(SelectCases(names, {"b-f32", "*-f32"}), (std::vector<size_t>{0, 2}));
  EXPECT_EQ(SelectCases(names, {"a-bf16"}), (std::vector<size_t>{1}));
  try {
    SelectCases(names, {"a*", "c"});
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "no case is named 'c'; there are a-f32, a-bf16, b-f32");
  }
}

TEST(BenchmarkTraining, ChecksAndTimes) {
  const std::vector<TrainBenchmark> all = TrainBenchmarks();
  for (const int ring : {1, 2}) {
    int results = 0;
    BenchmarkTraining({.ring = ring, .threads = 1}, Layout::kZigzag, {all[0], all[1]},
                      {.min_seconds = 0},
                      [&](const TrainBenchmark& benchmark, const TrainBenchmarkResult& result) {
                        ++results;
                        EXPECT_EQ(result.ring, ring);
                        EXPECT_EQ(result.tokens, benchmark.context);
                        EXPECT_GE(result.calls, 3);
                        EXPECT_GT(result.share_of_peak(), 0);
                        EXPECT_GT(result.peak_bytes, 0);
                        EXPECT_EQ(result.bytes_sent > 0, ring > 1);
                      });
    EXPECT_EQ(results, 2);
  }
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
