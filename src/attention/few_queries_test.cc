#include "attention/few_queries.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
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

// Many rows of bf16, which matrix tiles multiply where the CPU has them; some of a causal tile is
// hidden.
TEST(FewQueries, ManyBf16RowsAreAsExactAsThePlainFormula) {
  for (const int64_t queries : {2, 9, 16}) {
    ShardCase c{.batch = 2, .heads = 8, .kv_heads = 2, .head_dim = 64, .dtype = DType::kBF16};
    c.queries = {{5000 - queries, queries, 1}};
    c.key_blocks = {{{0, 5000, 1}}};
    c.options.mask.causal = true;
    c.sinks = queries == 9;
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
    EXPECT_LE(LargestError(Doubles(one.logsumexp), oracle.logsumexp), 1e-5);
  }
}

TEST(FewQueries, HiddenKeysAreNotTouched) {
  ShardCase c{.head_dim = 32};
  c.queries = {{9, 1, 1}};
  c.key_blocks = {{{0, 40, 1}}};
  c.options.mask.causal = true;
  const ShardInputs inputs(c);
  for (int64_t key = 10; key < 40; ++key) {
    *inputs.key.at<float>(0, key, 0) = std::numeric_limits<float>::quiet_NaN();
    *inputs.value.at<float>(0, key, 0) = std::numeric_limits<float>::infinity();
  }
  for (const float value : Attend(c, c.options, inputs, 1).output)
    EXPECT_TRUE(std::isfinite(value));
  *inputs.value.at<float>(0, 9, 0) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(Attend(c, c.options, inputs, 1).output[0]));
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
