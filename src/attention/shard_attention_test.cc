#include "attention/shard_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/attention_oracle.h"
#include "attention/forward_block.h"
#include "attention/shard_case.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

void Set(const TensorView& view, int64_t row, int64_t head, int64_t i, float value) {
  DispatchDType(view.dtype, [&]<class T>(T) { view.at<T>(0, row, head)[i] = T(value); });
}

void Check(const ShardCase& c) {
  SCOPED_TRACE(c.ToString());
  EXPECT_EQ(ComputeAndCheckShard(c), "");
}

Positions Contiguous(int64_t count, int64_t start = 0) { return {{start, count, 1}}; }

TEST(ShardAttention, EveryLength) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool causal : {false, true}) {
      for (const int64_t length : {0, 1, 2, 63, 64, 65, 113, 203, 1023}) {
        ShardCase c;
        c.heads = 2;
        c.dtype = dtype;
        c.head_dim = 40;
        c.options.mask.causal = causal;
        c.queries = Contiguous(length);
        c.key_blocks = {Contiguous(length)};
        c.seed = 100 + length;
        Check(c);
      }
    }
  }
}

TEST(ShardAttention, EveryHeadDim) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool causal : {false, true}) {
      for (const int64_t head_dim : {1, 3, 16, 17, 32, 40, 64, 80, 128, 200, 256}) {
        ShardCase c;
        c.dtype = dtype;
        c.head_dim = head_dim;
        c.options.mask.causal = causal;
        c.queries = Contiguous(203, 397);
        c.key_blocks = {Contiguous(600)};
        c.seed = 200 + head_dim;
        Check(c);
      }
    }
  }
}

TEST(ShardAttention, HeadRatiosBatchesAndTeams) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t ratio : {1, 2, 3, 4}) {
      for (const int threads : {1, 2, 3}) {
        ShardCase c;
        c.batch = 2;
        c.kv_heads = 2;
        c.heads = 2 * ratio;
        c.dtype = dtype;
        c.head_dim = 24;
        c.options.mask.causal = true;
        c.queries = Contiguous(150);
        c.key_blocks = {Contiguous(450)};
        c.queries[0].start = 300;
        c.threads = threads;
        c.seed = 300 + ratio;
        Check(c);
      }
    }
  }
}

// Keys enough for products in bf16.
TEST(ShardAttention, ManyKeys) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t head_dim : {17, 40, 64, 128, 200}) {
      ShardCase c;
      c.dtype = dtype;
      c.head_dim = head_dim;
      c.heads = head_dim < 64 ? 2 : 1;
      c.options.mask.causal = true;
      c.queries = {{0, 70, 20}, {2000, 130, 1}};
      c.key_blocks = {Contiguous(1501), Contiguous(1030, 1501)};
      c.seed = 400 + head_dim;
      Check(c);
    }
  }
}

// Positions as layouts give them, and worse: runs of any length and stride, in several blocks.
Positions RandomPositions(Random& random, int64_t most) {
  Positions positions;
  int64_t position = static_cast<int64_t>(random.Below(50));
  const auto runs = static_cast<int64_t>(random.Below(4));
  for (int64_t run = 0; run <= runs; ++run) {
    const auto count = static_cast<int64_t>(random.Below(random.Below(3) == 0 ? 4 : most));
    const auto stride = static_cast<int64_t>(1 + random.Below(4));
    positions.push_back({position, count, stride});
    position += count * stride + static_cast<int64_t>(random.Below(40));
  }
  return positions;
}

TEST(ShardAttention, RandomRunsAndBlocks) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed, 7);
    ShardCase c;
    c.seed = seed;
    c.batch = 1 + static_cast<int64_t>(random.Below(2));
    c.kv_heads = 1 + static_cast<int64_t>(random.Below(2));
    c.heads = c.kv_heads * (1 + static_cast<int64_t>(random.Below(3)));
    c.head_dim = 1 + static_cast<int64_t>(random.Below(70));
    c.dtype = random.Below(2) == 0 ? DType::kF32 : DType::kBF16;
    c.options.mask.causal = random.Below(3) != 0;
    if (random.Below(3) == 0) c.options.scale = 0.3;
    c.queries = RandomPositions(random, 150);
    const uint64_t blocks = 1 + random.Below(3);
    for (uint64_t block = 0; block < blocks; ++block) {
      c.key_blocks.push_back(RandomPositions(random, 400));
    }
    c.threads = 1 + static_cast<int>(random.Below(3));
    Check(c);
  }
}

TEST(ShardAttention, ScaleZeroAndNegative) {
  for (const double scale : {0.0, -0.5}) {
    ShardCase c;
    c.options.scale = scale;
    c.queries = Contiguous(70);
    c.key_blocks = {Contiguous(500)};
    Check(c);
  }
}

TEST(ShardAttention, SameBitsEveryTime) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c;
    c.dtype = dtype;
    c.kv_heads = 3;
    c.heads = 6;
    c.head_dim = 32;
    c.threads = 3;
    c.options.mask.causal = true;
    c.queries = Contiguous(700);
    c.key_blocks = {Contiguous(300), Contiguous(400, 300)};
    const ShardInputs inputs(c);
    const AttentionResults first = ComputeShard(c, inputs);
    for (int repeat = 0; repeat < 5; ++repeat) {
      const AttentionResults again = ComputeShard(c, inputs);
      EXPECT_EQ(first.output, again.output);
      EXPECT_EQ(first.logsumexp, again.logsumexp);
      EXPECT_EQ(first.dq, again.dq);
      EXPECT_EQ(first.dk, again.dk);
      EXPECT_EQ(first.dv, again.dv);
    }
  }
}

// Scores of +-10^4 whose products are exact in f32: the largest comes last, so the reference moves
// far, and again in each block.
TEST(ShardAttention, LargeScoresAreExact) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int blocks : {1, 3}) {
      ShardCase c;
      c.dtype = dtype;
      c.head_dim = 4;
      c.options.scale = 1.0;
      c.queries = Contiguous(70);
      const int64_t per_block = 450 / blocks;
      for (int64_t block = 0; block < blocks; ++block) {
        c.key_blocks.push_back(Contiguous(per_block, block * per_block));
      }
      const ShardInputs inputs(c);
      for (int64_t i = 0; i < 70; ++i) {
        for (int64_t d = 0; d < 4; ++d) Set(inputs.query, i, 0, d, d == 0 ? 64.0f : 0.0f);
      }
      for (int64_t j = 0; j < 450; ++j) {
        Set(inputs.key, j, 0, 0, static_cast<float>(j < 225 ? -160 + j % 3 : 144 + j / 32));
      }
      const AttentionOracle oracle = ComputeAttentionOracle(ForOracle(c, inputs));
      AttentionResults results = ComputeShard(c, inputs, false);
      const double bound = dtype == DType::kF32 ? 1e-5 : 4e-3;
      EXPECT_LE(LargestError(results.output, oracle.output),
                bound * LargestMagnitude(oracle.output));
      EXPECT_LE(LargestError(results.logsumexp, oracle.logsumexp),
                1e-6 * LargestMagnitude(oracle.logsumexp));
    }
  }
}

TEST(ShardAttention, RowsThatSeeNothing) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c;
    c.dtype = dtype;
    c.head_dim = 20;
    c.options.mask.causal = true;
    c.queries = Contiguous(200);  // positions 0 to 199; keys begin at 90
    c.key_blocks = {Contiguous(100, 90), Contiguous(50, 190)};
    Check(c);
    const ShardInputs inputs(c);
    const AttentionResults results = ComputeShard(c, inputs);
    for (int64_t row = 0; row < 200; ++row) {
      EXPECT_EQ(std::isinf(results.logsumexp[row]), row < 90) << row;
      EXPECT_EQ(results.output[row * 20] == 0, row < 90) << row;
      if (row == 90) continue;  // sees one key: its probability is 1 whatever the query
      EXPECT_EQ(results.dq[row * 20] == 0, row < 90) << row;
    }
  }
}

TEST(ShardAttention, NaNStaysInItsRow) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c;
    c.dtype = dtype;
    c.head_dim = 20;
    c.options.mask.causal = true;
    c.queries = Contiguous(150);
    c.key_blocks = {Contiguous(150)};
    const ShardInputs inputs(c);
    Set(inputs.query, 70, 0, 3, std::nanf(""));
    const AttentionResults results = ComputeShard(c, inputs);
    for (int64_t row = 0; row < 150; ++row) {
      EXPECT_EQ(std::isnan(results.output[row * 20 + 7]), row == 70) << row;
      EXPECT_EQ(std::isnan(results.logsumexp[row]), row == 70) << row;
      EXPECT_EQ(std::isnan(results.dq[row * 20 + 7]), row == 70) << row;
    }
    EXPECT_TRUE(std::isnan(results.dk[0]));
    EXPECT_TRUE(std::isnan(results.dv[0]));
  }
}

// Nothing that a row may not see reaches it, NaN included: keys and values after it, and for
// gradients of keys the queries before them.
TEST(ShardAttention, HiddenNaNStaysHidden) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t heads : {1, 8}) {  // few and enough for products in bf16
      ShardCase c;
      c.dtype = dtype;
      c.heads = heads;
      c.head_dim = 20;
      c.options.mask.causal = true;
      c.queries = Contiguous(420);
      c.key_blocks = {Contiguous(420)};
      const auto poisoned = [&](const auto& poison) {
        const ShardInputs inputs(c);
        poison(inputs);
        return ComputeShard(c, inputs);
      };
      // Rows of a tensor whose every element is not a number.
      const auto nans = [&](const std::vector<double>& tensor, int64_t row) {
        return std::isnan(tensor[row * static_cast<int64_t>(tensor.size()) / 420]);
      };
      const float nan = std::nanf("");
      const AttentionResults key =
          poisoned([&](const ShardInputs& inputs) { Set(inputs.key, 200, 0, 0, nan); });
      const AttentionResults value =
          poisoned([&](const ShardInputs& inputs) { Set(inputs.value, 200, 0, 0, nan); });
      const AttentionResults query =
          poisoned([&](const ShardInputs& inputs) { Set(inputs.query, 200, 0, 0, nan); });
      const AttentionResults gradient =
          poisoned([&](const ShardInputs& inputs) { Set(inputs.output_gradient, 200, 0, 0, nan); });
      for (int64_t row = 0; row < 420; ++row) {
        EXPECT_EQ(nans(key.output, row), row >= 200) << row;
        EXPECT_EQ(nans(value.output, row), row >= 200) << row;
        EXPECT_EQ(nans(key.dq, row), row >= 200) << row;
        EXPECT_EQ(nans(query.output, row), row == 200) << row;
        EXPECT_EQ(nans(query.dk, row), row <= 200) << row;
        EXPECT_EQ(nans(query.dv, row), row <= 200) << row;
        EXPECT_EQ(nans(gradient.dv, row), row <= 200) << row;
        EXPECT_EQ(nans(gradient.dk, row), row <= 200) << row;
        EXPECT_EQ(nans(gradient.dq, row), row == 200) << row;
      }
    }
  }
}

// Products in bf16 take keys in pairs. The key beside a run's odd last one may be hidden, and past
// the last key of a block comes the next row of V^T: neither may reach the output.
TEST(ShardAttention, AnOddRunHasNoPartner) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool causal : {false, true}) {
      ShardCase c;
      c.dtype = dtype;
      c.heads = 16;  // enough for products in bf16
      c.head_dim = 20;
      c.options.mask.causal = causal;
      c.queries = {{151, 302, 1}};
      c.key_blocks = {{{0, 151, 1}, {453, 151, 1}}};  // a rank's share of 604 positions, zigzag
      const ShardInputs inputs(c);
      Set(inputs.value, 0, 0, 1, inf);
      Set(inputs.value, 151, 0, 2, inf);  // the first key of the second run
      const AttentionResults results = ComputeShard(c, inputs, false);
      for (size_t i = 0; i < results.output.size(); ++i) {
        const bool infinite = i % 20 == 1 || (i % 20 == 2 && !causal);
        ASSERT_EQ(std::isfinite(results.output[i]), !infinite) << Name(dtype) << " " << i;
        ASSERT_FALSE(std::isnan(results.output[i])) << Name(dtype) << " " << i;
      }
    }
  }
}

// Enough queries a thread that forward's blocks have all the panels they may.
TEST(ShardAttention, BlocksOfManyPanels) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c{.heads = 8, .kv_heads = 2, .head_dim = 20, .dtype = dtype, .threads = 1};
    c.queries = {{100, 601, 1}};
    c.key_blocks = {Contiguous(450), {{450, 251, 1}}};
    c.options.mask.causal = true;
    c.options.mask.window_left = 300;
    EXPECT_EQ(ForwardQueryBlock(c.shape(), c.q_len(), c.threads), kMostForwardPanels * kPanel);
    Check(c);
  }
}

// More work than one interval of the hook.
TEST(ShardAttention, CallsTheProgressHook) {
  ShardCase c;
  c.queries = Contiguous(400);
  c.key_blocks = {Contiguous(800)};
  const ShardInputs inputs(c);
  int calls = 0;
  ComputeShard(c, inputs, true, [&] { ++calls; });
  EXPECT_GE(calls, 4);
}

TEST(ShardAttention, RefusesShapesThatDisagree) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  const Tensor query(meter, MemoryCategory::kActivations, DType::kF32, {1, 8, 3, 16});
  const auto make = [&](const AttentionShape& shape, const Positions& positions) {
    Tensor output(meter, MemoryCategory::kActivations, DType::kF32, query.shape());
    Tensor logsumexp(meter, MemoryCategory::kActivations, DType::kF32, {1, 3, 8});
    MakeShardAttentionForward(context, shape, {}, query.view(), positions,
                              {output.view(), logsumexp.view()});
  };
  EXPECT_NO_THROW(make({1, 3, 1, 16, 16, DType::kF32}, Contiguous(8)));
  EXPECT_THROW(make({1, 3, 2, 16, 16, DType::kF32}, Contiguous(8)), ShapeError);
  EXPECT_THROW(make({1, 3, 1, 257, 16, DType::kF32}, Contiguous(8)), ShapeError);
  EXPECT_THROW(make({1, 3, 1, 16, 16, DType::kF32}, Contiguous(7)), ShapeError);
  EXPECT_THROW(make({2, 3, 1, 16, 16, DType::kF32}, Contiguous(8)), ShapeError);
  EXPECT_THROW(make({1, 3, 1, 16, 16, DType::kBF16}, Contiguous(8)), ShapeError);
}

}  // namespace
}  // namespace ringwise
