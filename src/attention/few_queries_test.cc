#include "attention/few_queries.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "attention/attention_oracle.h"
#include "attention/comparison.h"
#include "attention/shard_case.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

struct Outputs {
  std::vector<float> output, logsumexp;
};

Outputs Attend(const ShardCase& c, const AttentionOptions& options, const ShardInputs& inputs,
               int threads) {
  ThreadTeam team(threads);
  MemoryMeter meter;
  Context context{team, meter};
  const Shape shape = {c.batch, c.q_len(), c.heads, c.shape().value_dim};
  Outputs results{std::vector<float>(shape.elements(), NAN),
                  std::vector<float>(c.batch * c.heads * c.q_len(), NAN)};
  AttendFewQueries(
      context, c.shape(), options, {inputs.query, inputs.key, inputs.value}, c.queries, c.keys(),
      {TensorView(results.output.data(), DType::kF32, shape),
       TensorView(results.logsumexp.data(), DType::kF32, {c.batch, c.heads, c.q_len()})});
  return results;
}

std::vector<double> Doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

void Check(const ShardCase& c) {
  SCOPED_TRACE(c.ToString());
  const ShardInputs inputs(c);
  const AttentionOptions options = OptionsOf(c, inputs);
  const AttentionOracle oracle = ComputeAttentionOracle(
      {options, c.queries, c.keys(), inputs.query, inputs.key, inputs.value});
  const Outputs one = Attend(c, options, inputs, 1);
  const Outputs three = Attend(c, options, inputs, 3);
  EXPECT_EQ(one.output, three.output);
  EXPECT_EQ(one.logsumexp, three.logsumexp);
  const AttentionResults found{.output = Doubles(one.output),
                               .logsumexp = Doubles(one.logsumexp),
                               .dq = {},
                               .dk = {},
                               .dv = {}};
  const AttentionResults expected{
      .output = oracle.output, .logsumexp = oracle.logsumexp, .dq = {}, .dk = {}, .dv = {}};
  EXPECT_EQ(CheckAttention(found, expected, oracle, {}), "");
}

ShardCase Draw(Random& random, uint64_t seed) {
  ShardCase c{.batch = random.Below(3) == 0 ? 2 : 1, .seed = seed};
  c.kv_heads = 1 + static_cast<int64_t>(random.Below(3));
  c.heads = c.kv_heads * (1 + static_cast<int64_t>(random.Below(4)));
  c.head_dim = 1 + static_cast<int64_t>(random.Below(150));
  c.value_dim = 1 + static_cast<int64_t>(random.Below(150));
  c.dtype = random.Below(2) == 0 ? DType::kF32 : DType::kBF16;
  c.sinks = random.Below(3) == 0;
  const int64_t kv_len = random.Below(10) == 0 ? 0 : 1 + static_cast<int64_t>(random.Below(700));
  const int64_t q_len = 1 + static_cast<int64_t>(random.Below(6));
  c.queries = {{static_cast<int64_t>(random.Below(kv_len + 3)), q_len,
                1 + static_cast<int64_t>(random.Below(3))}};
  c.key_blocks = {{{0, kv_len / 2, 1}, {kv_len / 2, kv_len - kv_len / 2, 1}}};
  c.options.mask.causal = random.Below(2) == 0;
  if (random.Below(3) == 0)
    c.options.mask.window_left = static_cast<int64_t>(random.Below(kv_len + 1));
  return c;
}

TEST(FewQueries, AgreesWithTheOracle) {
  Random random(21, 1);
  for (uint64_t seed = 1; seed <= 60; ++seed) Check(Draw(random, seed));
}

// Several tasks along the keys, whose partial results are merged.
TEST(FewQueries, ManyKeys) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c{.heads = 4, .kv_heads = 2, .head_dim = 64, .dtype = dtype};
    c.queries = {{4997, 3, 1}};
    c.key_blocks = {{{0, 5000, 1}}};
    c.options.mask.causal = true;
    Check(c);
  }
}

void CheckBf16(const ShardCase& c) {
  SCOPED_TRACE(c.ToString());
  const ShardInputs inputs(c);
  const AttentionOptions options = OptionsOf(c, inputs);
  const AttentionCase exact{options, c.queries, c.keys(), inputs.query, inputs.key, inputs.value};
  const AttentionOracle oracle = ComputeAttentionOracle(exact);
  const AttentionOracle plain = ComputePlainBf16Attention(exact);
  const Outputs one = Attend(c, options, inputs, 1);
  EXPECT_EQ(one.output, Attend(c, options, inputs, 3).output);
  const std::vector<double> output = Doubles(one.output);
  EXPECT_LE(RmsError(output, oracle.output), 1.1 * RmsError(plain.output, oracle.output));
  EXPECT_LE(LargestError(output, oracle.output), 2 * LargestError(plain.output, oracle.output));
  EXPECT_LE(LargestError(Doubles(one.logsumexp), oracle.logsumexp), 2e-5);
}

// Many rows of bf16 and whole tiles' widths, which matrix tiles multiply where the CPU has them;
// rows that see something else than their neighbours, or that a mask cuts by head, come alone.
TEST(FewQueries, ManyBf16RowsAreAsExactAsThePlainFormula) {
  Random random(22, 1);
  const auto below = [&](uint64_t limit) { return static_cast<int64_t>(random.Below(limit)); };
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    ShardCase c{.batch = 1 + below(2), .dtype = DType::kBF16, .seed = seed};
    c.kv_heads = 1 + below(3);
    c.heads = c.kv_heads * (2 + below(3));
    c.head_dim = 32 * (1 + below(4));
    c.value_dim = 32 * (1 + below(4));
    c.sinks = below(3) == 0;
    const int64_t kv_len = 20 + below(1500);
    const int64_t q_len = 4 + below(12);
    c.queries = {{std::max<int64_t>(0, kv_len - below(300)), q_len, 1}};
    c.key_blocks = {{{0, kv_len, 1}}};
    c.options.mask.causal = below(2) == 0;
    if (below(4) == 0) c.options.mask.window_left = below(kv_len + 400);
    if (below(3) == 0) {
      const int64_t end = c.queries[0].last() + 1;
      c.options.mask.slices = std::make_shared<const std::vector<MaskSlice>>(
          std::vector<MaskSlice>{{.head = {}, .q_end = end, .k_end = kv_len / 2},
                                 {.head = below(static_cast<uint64_t>(c.heads)),
                                  .q_end = end,
                                  .k_begin = kv_len / 3,
                                  .k_end = kv_len}});
    }
    CheckBf16(c);
  }
}

// By vectors, and by matrix tiles where the CPU has them: 16 rows of a kv_head.
TEST(FewQueries, HiddenKeysAreNotTouched) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c{.heads = 16, .head_dim = 32, .dtype = dtype};
    c.queries = {{299, 1, 1}};
    c.key_blocks = {{{0, 330, 1}}};
    c.options.mask.causal = true;
    const ShardInputs inputs(c);
    const auto set = [&](const TensorView& view, int64_t key, float value) {
      DispatchDType(dtype, [&]<class T>(T) { *view.at<T>(0, key, 0) = T(value); });
    };
    for (int64_t key = 300; key < 330; ++key) {
      set(inputs.key, key, std::numeric_limits<float>::quiet_NaN());
      set(inputs.value, key, std::numeric_limits<float>::infinity());
    }
    for (const float value : Attend(c, c.options, inputs, 1).output) {
      EXPECT_TRUE(std::isfinite(value));
    }
    set(inputs.value, 9, std::numeric_limits<float>::quiet_NaN());
    EXPECT_TRUE(std::isnan(Attend(c, c.options, inputs, 1).output[0]));
  }
}

// Of all runs alike.
Positions Runs(int64_t runs, int64_t keys) {
  Positions positions;
  for (int64_t run = 0; run < runs; ++run) positions.push_back({2 * run * keys, keys, 1});
  return positions;
}

TEST(FewQueries, SuitManyKeysInLongRuns) {
  const AttentionShape shape{.batch = 1, .heads = 8, .kv_heads = 2, .head_dim = 8, .value_dim = 8};
  const auto suits = [&](int64_t q_len, const Positions& keys) {
    return SuitsFewQueries(shape, {}, q_len, keys);
  };
  EXPECT_TRUE(suits(16, Runs(1, kFewQueriesLeastKeys)));
  EXPECT_FALSE(suits(17, Runs(1, kFewQueriesLeastKeys)));
  EXPECT_FALSE(suits(1, Runs(1, kFewQueriesLeastKeys - 1)));
  EXPECT_TRUE(suits(1, Runs(100, 256)));
  EXPECT_FALSE(suits(1, Runs(100, 255)));
  EXPECT_FALSE(suits(1, Runs(2 * kFewQueriesLeastKeys, 1)));
}

}  // namespace
}  // namespace ringwise
