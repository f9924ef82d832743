#include "attention/shard_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/attention_oracle.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

// One call of attention. Keys and values may arrive in several blocks.
struct Case {
  int64_t batch = 1;
  int64_t heads = 1;
  int64_t kv_heads = 1;
  int64_t head_dim = 64;
  DType dtype = DType::kF32;
  AttentionOptions options;
  Positions queries;
  std::vector<Positions> key_blocks;
  int threads = 2;
  uint64_t seed = 1;

  int64_t q_len() const { return Count(queries); }
  Positions keys() const {
    Positions all;
    for (const Positions& block : key_blocks) all.insert(all.end(), block.begin(), block.end());
    return all;
  }
  std::string ToString() const {
    std::string text = "seed " + std::to_string(seed) + ", batch " + std::to_string(batch) +
                       ", heads " + std::to_string(heads) + ", kv_heads " +
                       std::to_string(kv_heads) + ", head_dim " + std::to_string(head_dim) + ", " +
                       std::string(Name(dtype)) + (options.mask.causal ? ", causal" : ", full") +
                       ", threads " + std::to_string(threads) + ", queries";
    const auto add = [&](const Positions& positions) {
      for (const PositionRun& run : positions) {
        text += " " + std::to_string(run.start) + "+" + std::to_string(run.count) + "*" +
                std::to_string(run.stride);
      }
    };
    add(queries);
    for (const Positions& block : key_blocks) {
      text += ", keys";
      add(block);
    }
    return text;
  }
};

// Inputs as slices of wider tensors, so that every view is strided.
class Inputs {
 public:
  explicit Inputs(const Case& c) : dtype_(c.dtype) {
    const int64_t kv_len = Count(c.keys());
    fused_query_ = Make({c.batch, c.q_len(), 2 * c.heads, c.head_dim}, c.seed, 0);
    fused_key_value_ = Make({c.batch, kv_len, 2 * c.kv_heads, c.head_dim}, c.seed, 1);
    query = fused_query_.view().Slice(2, 0, c.heads);
    output_gradient = fused_query_.view().Slice(2, c.heads, c.heads);
    key = fused_key_value_.view().Slice(2, 0, c.kv_heads);
    value = fused_key_value_.view().Slice(2, c.kv_heads, c.kv_heads);
  }

  TensorView query, key, value, output_gradient;

 private:
  Tensor Make(Shape shape, uint64_t seed, uint64_t stream) {
    Tensor tensor(meter_, MemoryCategory::kWorkspace, dtype_, shape);
    Random random(seed, stream);
    DispatchDType(dtype_, [&]<class T>(T) {
      for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<T>()[i] = T(random.Normal());
    });
    return tensor;
  }

  MemoryMeter meter_;
  DType dtype_;
  Tensor fused_query_, fused_key_value_;
};

void Set(const TensorView& view, int64_t row, int64_t head, int64_t i, float value) {
  DispatchDType(view.dtype, [&]<class T>(T) { view.at<T>(0, row, head)[i] = T(value); });
}

AttentionResults Compute(const Case& c, const Inputs& inputs, bool backward = true,
                         const ProgressHook& progress = {}) {
  MemoryMeter meter;
  AttentionResults results;
  {
    ThreadTeam team(c.threads);
    Context context{team, meter};
    const AttentionShape shape{c.batch, c.heads, c.kv_heads, c.head_dim, c.head_dim, c.dtype};
    // Kept in f32 for backward, as its delta wants; the caller rounds.
    Tensor output(meter, MemoryCategory::kActivations, DType::kF32,
                  {c.batch, c.q_len(), c.heads, c.head_dim});
    Tensor logsumexp(meter, MemoryCategory::kActivations, DType::kF32,
                     {c.batch, c.heads, c.q_len()});
    {
      const auto forward =
          MakeShardAttentionForward(context, shape, c.options, inputs.query, c.queries);
      int64_t begin = 0;
      for (const Positions& keys : c.key_blocks) {
        const int64_t count = Count(keys);
        Buffer block(meter, MemoryCategory::kRingBuffers, forward->BlockBytes(count));
        forward->Pack(inputs.key.Slice(1, begin, count), inputs.value.Slice(1, begin, count), keys,
                      block.bytes());
        forward->Attend(block.bytes(), keys, progress);
        begin += count;
      }
      forward->Finish({output.view(), logsumexp.view()});
    }
    results.output = ToDoubles(output.view());
    results.logsumexp = ToDoubles(logsumexp.view());
    if (!backward) return results;
    const AttentionSaved saved{output.view(), logsumexp.view(), inputs.output_gradient};
    const auto gradients =
        MakeShardAttentionBackward(context, shape, c.options, inputs.query, saved, c.queries);
    Tensor dq(meter, MemoryCategory::kGradients, c.dtype, inputs.query.shape);
    Tensor dk(meter, MemoryCategory::kGradients, c.dtype, inputs.key.shape);
    Tensor dv(meter, MemoryCategory::kGradients, c.dtype, inputs.key.shape);
    int64_t begin = 0;
    for (const Positions& keys : c.key_blocks) {
      const int64_t count = Count(keys);
      Buffer block(meter, MemoryCategory::kRingBuffers, gradients->BlockBytes(count));
      Buffer sum(meter, MemoryCategory::kRingBuffers, gradients->GradientBytes(count));
      Buffer part(meter, MemoryCategory::kRingBuffers, gradients->GradientBytes(count));
      std::fill(sum.bytes().begin(), sum.bytes().end(), std::byte{0});
      std::fill(part.bytes().begin(), part.bytes().end(), std::byte{0});
      gradients->Pack(inputs.key.Slice(1, begin, count), inputs.value.Slice(1, begin, count), keys,
                      block.bytes());
      gradients->Attend(block.bytes(), keys, part.bytes(), progress);
      gradients->AddGradient(sum.bytes(), part.bytes());
      gradients->UnpackGradient(sum.bytes(), dk.view().Slice(1, begin, count),
                                dv.view().Slice(1, begin, count));
      begin += count;
    }
    gradients->Finish({dq.view(), dk.view(), dv.view()});
    results.dq = ToDoubles(dq.view());
    results.dk = ToDoubles(dk.view());
    results.dv = ToDoubles(dv.view());
  }
  EXPECT_EQ(meter.current().total, 0);
  return results;
}

AttentionCase ForOracle(const Case& c, const Inputs& inputs) {
  return {.options = c.options,
          .query_positions = c.queries,
          .key_positions = c.keys(),
          .query = inputs.query,
          .key = inputs.key,
          .value = inputs.value,
          .output_gradient = inputs.output_gradient};
}

// bf16: the root mean square error may be 1.1 times, the largest twice that of the plain formula.
// Nobody need be better than f32, whose bound is `floor`: with one key the plain formula cancels to
// exactly 0. logsumexp never meets bf16 after the inputs, so it must hold the bound of f32.
void CheckBf16(const AttentionResults& results, const AttentionOracle& oracle,
               const AttentionOracle& plain) {
  const auto check = [](const char* name, const std::vector<double>& actual,
                        const std::vector<double>& expected, const std::vector<double>& yardstick,
                        double floor) {
    EXPECT_LE(RmsError(actual, expected), std::max(floor, 1.1 * RmsError(yardstick, expected)))
        << name;
    EXPECT_LE(LargestError(actual, expected),
              std::max(floor, 2 * LargestError(yardstick, expected)))
        << name;
  };
  std::vector<double> output = results.output;
  for (double& value : output) {
    value = static_cast<double>(static_cast<float>(bf16(static_cast<float>(value))));
  }
  check("output", output, oracle.output, plain.output, 1e-5 * LargestMagnitude(oracle.output));
  EXPECT_LE(LargestError(results.logsumexp, oracle.logsumexp),
            1e-5 * LargestMagnitude(oracle.logsumexp));
  check("dq", results.dq, oracle.dq, plain.dq, 2e-6 * LargestMagnitude(oracle.dq_terms));
  check("dk", results.dk, oracle.dk, plain.dk, 2e-6 * LargestMagnitude(oracle.dk_terms));
  check("dv", results.dv, oracle.dv, plain.dv, 1e-5 * LargestMagnitude(oracle.dv));
}

void Check(const Case& c) {
  SCOPED_TRACE(c.ToString());
  const Inputs inputs(c);
  const AttentionOracle oracle = ComputeAttentionOracle(ForOracle(c, inputs));
  const AttentionResults results = Compute(c, inputs);
  if (c.dtype == DType::kF32) {
    EXPECT_EQ(CheckAttention(results, Results(oracle), oracle, {}), "");
  } else {
    CheckBf16(results, oracle, ComputePlainBf16Attention(ForOracle(c, inputs)));
  }
}

Positions Contiguous(int64_t count, int64_t start = 0) { return {{start, count, 1}}; }

TEST(ShardAttention, EveryLength) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool causal : {false, true}) {
      for (const int64_t length : {0, 1, 2, 63, 64, 65, 113, 203, 1023}) {
        Case c;
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
        Case c;
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
        Case c;
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
      Case c;
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
    Case c;
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
    Case c;
    c.options.scale = scale;
    c.queries = Contiguous(70);
    c.key_blocks = {Contiguous(500)};
    Check(c);
  }
}

TEST(ShardAttention, SameBitsEveryTime) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Case c;
    c.dtype = dtype;
    c.kv_heads = 3;
    c.heads = 6;
    c.head_dim = 32;
    c.threads = 3;
    c.options.mask.causal = true;
    c.queries = Contiguous(700);
    c.key_blocks = {Contiguous(300), Contiguous(400, 300)};
    const Inputs inputs(c);
    const AttentionResults first = Compute(c, inputs);
    for (int repeat = 0; repeat < 5; ++repeat) {
      const AttentionResults again = Compute(c, inputs);
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
      Case c;
      c.dtype = dtype;
      c.head_dim = 4;
      c.options.scale = 1.0;
      c.queries = Contiguous(70);
      const int64_t per_block = 450 / blocks;
      for (int64_t block = 0; block < blocks; ++block) {
        c.key_blocks.push_back(Contiguous(per_block, block * per_block));
      }
      const Inputs inputs(c);
      for (int64_t i = 0; i < 70; ++i) {
        for (int64_t d = 0; d < 4; ++d) Set(inputs.query, i, 0, d, d == 0 ? 64.0f : 0.0f);
      }
      for (int64_t j = 0; j < 450; ++j) {
        Set(inputs.key, j, 0, 0, static_cast<float>(j < 225 ? -160 + j % 3 : 144 + j / 32));
      }
      const AttentionOracle oracle = ComputeAttentionOracle(ForOracle(c, inputs));
      AttentionResults results = Compute(c, inputs, false);
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
    Case c;
    c.dtype = dtype;
    c.head_dim = 20;
    c.options.mask.causal = true;
    c.queries = Contiguous(200);  // positions 0 to 199; keys begin at 90
    c.key_blocks = {Contiguous(100, 90), Contiguous(50, 190)};
    Check(c);
    const Inputs inputs(c);
    const AttentionResults results = Compute(c, inputs);
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
    Case c;
    c.dtype = dtype;
    c.head_dim = 20;
    c.options.mask.causal = true;
    c.queries = Contiguous(150);
    c.key_blocks = {Contiguous(150)};
    const Inputs inputs(c);
    Set(inputs.query, 70, 0, 3, std::nanf(""));
    const AttentionResults results = Compute(c, inputs);
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
      Case c;
      c.dtype = dtype;
      c.heads = heads;
      c.head_dim = 20;
      c.options.mask.causal = true;
      c.queries = Contiguous(420);
      c.key_blocks = {Contiguous(420)};
      const auto poisoned = [&](const auto& poison) {
        const Inputs inputs(c);
        poison(inputs);
        return Compute(c, inputs);
      };
      // Rows of a tensor whose every element is not a number.
      const auto nans = [&](const std::vector<double>& tensor, int64_t row) {
        return std::isnan(tensor[row * static_cast<int64_t>(tensor.size()) / 420]);
      };
      const float nan = std::nanf("");
      const AttentionResults key =
          poisoned([&](const Inputs& inputs) { Set(inputs.key, 200, 0, 0, nan); });
      const AttentionResults value =
          poisoned([&](const Inputs& inputs) { Set(inputs.value, 200, 0, 0, nan); });
      const AttentionResults query =
          poisoned([&](const Inputs& inputs) { Set(inputs.query, 200, 0, 0, nan); });
      const AttentionResults gradient =
          poisoned([&](const Inputs& inputs) { Set(inputs.output_gradient, 200, 0, 0, nan); });
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
      Case c;
      c.dtype = dtype;
      c.heads = 16;  // enough for products in bf16
      c.head_dim = 20;
      c.options.mask.causal = causal;
      c.queries = {{151, 302, 1}};
      c.key_blocks = {{{0, 151, 1}, {453, 151, 1}}};  // a rank's share of 604 positions, zigzag
      const Inputs inputs(c);
      Set(inputs.value, 0, 0, 1, inf);
      Set(inputs.value, 151, 0, 2, inf);  // the first key of the second run
      const AttentionResults results = Compute(c, inputs, false);
      for (size_t i = 0; i < results.output.size(); ++i) {
        const bool infinite = i % 20 == 1 || (i % 20 == 2 && !causal);
        ASSERT_EQ(std::isfinite(results.output[i]), !infinite) << Name(dtype) << " " << i;
        ASSERT_FALSE(std::isnan(results.output[i])) << Name(dtype) << " " << i;
      }
    }
  }
}

// More work than one interval of the hook.
TEST(ShardAttention, CallsTheProgressHook) {
  Case c;
  c.queries = Contiguous(400);
  c.key_blocks = {Contiguous(800)};
  const Inputs inputs(c);
  int calls = 0;
  Compute(c, inputs, true, [&] { ++calls; });
  EXPECT_GE(calls, 4);
}

TEST(ShardAttention, RefusesShapesThatDisagree) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  const Tensor query(meter, MemoryCategory::kActivations, DType::kF32, {1, 8, 3, 16});
  const auto make = [&](const AttentionShape& shape, const Positions& positions) {
    MakeShardAttentionForward(context, shape, {}, query.view(), positions);
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
