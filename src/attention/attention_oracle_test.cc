#include "attention/attention_oracle.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "attention/shard_attention_reference.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

struct Problem {
  AttentionShape shape;
  AttentionOptions options;
  Positions query_positions;
  Positions key_positions;
};

Tensor RandomTensor(MemoryMeter& meter, uint64_t seed, Shape shape) {
  Tensor tensor(meter, MemoryCategory::kWorkspace, DType::kF32, shape);
  Random random(seed, 0);
  for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<float>()[i] = random.Normal();
  return tensor;
}

const Mask kFull{.causal = false};
const Mask kCausal{.causal = true};

const Problem kProblems[] = {
    {{2, 4, 2, 3, 3, DType::kF32}, {std::nullopt, kCausal}, {{2, 5, 1}}, {{0, 7, 1}}},
    {{1, 3, 3, 5, 5, DType::kF32}, {0.7, kFull}, {{0, 4, 2}, {20, 1, 1}}, {{0, 6, 1}}},
    // The first two queries see nothing.
    {{1, 6, 2, 1, 1, DType::kF32}, {-1.3, kCausal}, {{0, 6, 1}}, {{2, 3, 1}}},
    {{1, 2, 1, 4, 4, DType::kF32}, {0.0, kFull}, {{0, 2, 1}}, {{0, 3, 1}}},
};

class Oracle : public testing::TestWithParam<int> {
 protected:
  const Problem& problem_ = kProblems[GetParam()];
  int64_t q_len_ = Count(problem_.query_positions);
  int64_t kv_len_ = Count(problem_.key_positions);
  Shape query_shape_{problem_.shape.batch, q_len_, problem_.shape.heads, problem_.shape.head_dim};
  Shape key_shape_{problem_.shape.batch, kv_len_, problem_.shape.kv_heads, problem_.shape.head_dim};
  MemoryMeter meter_;
  Tensor query_ = RandomTensor(meter_, 1, query_shape_);
  Tensor key_ = RandomTensor(meter_, 2, key_shape_);
  Tensor value_ = RandomTensor(meter_, 3, key_shape_);
  Tensor output_gradient_ = RandomTensor(meter_, 4, query_shape_);
  AttentionCase case_{problem_.options,
                      problem_.query_positions,
                      problem_.key_positions,
                      query_.view(),
                      key_.view(),
                      value_.view(),
                      output_gradient_.view()};

  // The scalar whose gradient is taken: sum of output x output_gradient.
  double Loss() {
    const std::vector<double> output = ComputeAttentionOracle(case_).output;
    double sum = 0;
    for (size_t i = 0; i < output.size(); ++i) sum += output[i] * output_gradient_.data<float>()[i];
    return sum;
  }
};

// Central differences: the step is a power of two, so that x + h and x - h are exact differences.
TEST_P(Oracle, GradientsAreFiniteDifferences) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  const std::pair<Tensor*, const std::vector<double>*> gradients[] = {
      {&query_, &oracle.dq}, {&key_, &oracle.dk}, {&value_, &oracle.dv}};
  for (const auto& [tensor, gradient] : gradients) {
    ASSERT_EQ(static_cast<int64_t>(gradient->size()), tensor->elements());
    for (int64_t i = 0; i < tensor->elements(); ++i) {
      float& x = tensor->data<float>()[i];
      const float saved = x;
      x = saved + 0x1p-10f;
      const double above = Loss();
      const double high = x;
      x = saved - 0x1p-10f;
      const double below = Loss();
      const double low = x;
      x = saved;
      // The third derivative is of order 10 here: error about 10 h^2 / 6.
      EXPECT_NEAR((above - below) / (high - low), (*gradient)[i], 1e-5) << i;
    }
  }
}

TEST_P(Oracle, LogSumExpAndOutputByHand) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  const AttentionShape& s = problem_.shape;
  const double scale = problem_.options.scale.value_or(1 / std::sqrt(s.head_dim));
  for (int64_t h = 0; h < s.heads; ++h) {
    for (int64_t i = 0; i < q_len_; ++i) {
      double sum = 0;
      double weighted = 0;
      for (int64_t j = 0; j < kv_len_; ++j) {
        if (!Sees({problem_.options.mask, 0, 0}, At(problem_.query_positions, i),
                  At(problem_.key_positions, j))) {
          continue;
        }
        const int64_t kv_head = h / (s.heads / s.kv_heads);
        double dot = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          dot += static_cast<double>(*query_.view().at<float>(0, i, h, d)) *
                 *key_.view().at<float>(0, j, kv_head, d);
        }
        sum += std::exp(scale * dot);
        weighted += std::exp(scale * dot) * *value_.view().at<float>(0, j, kv_head, 0);
      }
      const double logsumexp = oracle.logsumexp[h * q_len_ + i];
      const double output = oracle.output[(i * s.heads + h) * s.head_dim];
      if (sum == 0) {
        EXPECT_EQ(logsumexp, -std::numeric_limits<double>::infinity());
        EXPECT_EQ(output, 0.0);
      } else {
        EXPECT_NEAR(logsumexp, std::log(sum), 1e-12);
        EXPECT_NEAR(output, weighted / sum, 1e-12);
      }
    }
  }
}

// The shard interfaces fed two blocks, one after the other, against the whole.
TEST_P(Oracle, ReferenceShardsAgree) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  const AttentionShape& s = problem_.shape;
  ReferenceShardForward forward(s, problem_.options, query_.view(), problem_.query_positions);
  const int64_t cut = kv_len_ / 3;
  const Range blocks[] = {{cut, kv_len_}, {0, cut}};
  std::vector<std::vector<std::byte>> packed;
  std::vector<Positions> positions;
  for (const Range& block : blocks) {
    const PositionRun& run = problem_.key_positions[0];
    positions.push_back({{run[block.begin], block.size(), run.stride}});
    packed.emplace_back(forward.BlockBytes(block.size()));
    forward.Pack(key_.view().Slice(1, block.begin, block.size()),
                 value_.view().Slice(1, block.begin, block.size()), positions.back(),
                 packed.back());
    forward.Attend(packed.back(), positions.back(), {});
  }
  EXPECT_LE(LargestError(forward.Output(), oracle.output), 1e-13);
  EXPECT_LE(LargestError(forward.LogSumExp(), oracle.logsumexp), 1e-13);

  ReferenceShardBackward backward(s, problem_.options, query_.view(), output_gradient_.view(),
                                  forward.Output(), forward.LogSumExp(), problem_.query_positions);
  for (int b = 0; b < 2; ++b) {
    std::vector<std::byte> gradient(backward.GradientBytes(blocks[b].size()));
    backward.Attend(packed[b], positions[b], gradient, {});
    std::vector<std::byte> sum(gradient.size());
    backward.AddGradient(sum, gradient);
    const Shape shape{s.batch, blocks[b].size(), s.kv_heads, s.head_dim};
    Tensor dk(meter_, MemoryCategory::kWorkspace, DType::kF32, shape);
    Tensor dv(meter_, MemoryCategory::kWorkspace, DType::kF32, shape);
    backward.UnpackGradient(sum, dk.view(), dv.view());
    for (int64_t batch = 0; batch < s.batch; ++batch) {
      const int64_t row = s.kv_heads * s.head_dim;
      for (int64_t i = 0; i < blocks[b].size() * row; ++i) {
        const int64_t here = batch * blocks[b].size() * row + i;
        const int64_t whole = (batch * kv_len_ + blocks[b].begin) * row + i;
        EXPECT_NEAR(backward.KeyGradient()[here], oracle.dk[whole], 1e-12);
        EXPECT_NEAR(backward.ValueGradient()[here], oracle.dv[whole], 1e-12);
        EXPECT_EQ(dk.data<float>()[here], static_cast<float>(backward.KeyGradient()[here]));
      }
    }
  }
  EXPECT_LE(LargestError(backward.QueryGradient(), oracle.dq), 1e-12);
}

// Each term bounds its gradient, and both vanish where nothing is seen.
TEST_P(Oracle, TermsBoundTheGradients) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  for (size_t i = 0; i < oracle.dq.size(); ++i) {
    EXPECT_LE(std::abs(oracle.dq[i]), oracle.dq_terms[i]);
  }
  for (size_t i = 0; i < oracle.dk.size(); ++i) {
    EXPECT_LE(std::abs(oracle.dk[i]), oracle.dk_terms[i]);
  }
}

TEST_P(Oracle, PlainBf16IsNearButNotEqual) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  const AttentionOracle plain = ComputePlainBf16Attention(case_);
  EXPECT_LE(LargestError(plain.output, oracle.output), 0.05);
  EXPECT_GT(LargestError(plain.output, oracle.output), 1e-5);
  EXPECT_LE(LargestError(plain.dv, oracle.dv), 0.1);
}

INSTANTIATE_TEST_SUITE_P(Problems, Oracle, testing::Range(0, 4));

TEST(CheckAttention, SeesWhatIsWrong) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::nan("");
  EXPECT_EQ(LargestError({1, -infinity}, {1, -infinity}), 0);
  EXPECT_EQ(LargestError({1, infinity}, {1, -infinity}), infinity);
  EXPECT_EQ(LargestError({nan}, {nan}), infinity);
  EXPECT_EQ(LargestError({nan}, {1}), infinity);
  EXPECT_EQ(LargestError({1}, {1, 2}), infinity);
  EXPECT_EQ(LargestError({}, {1}), infinity);
  EXPECT_EQ(LargestError({-3}, {3}), 6);
  EXPECT_DOUBLE_EQ(RmsError({1, 2, 3, 4}, {1, 2, 3, 8}), 2);
  EXPECT_EQ(RmsError({nan}, {0}), infinity);

  AttentionOracle oracle{{1, -2}, {0.5, -infinity}, {1, 1}, {1}, {4}, {10, 2}, {3}};
  const AttentionResults expected = Results(oracle);
  EXPECT_EQ(CheckAttention(expected, expected, oracle, {}), "");
  AttentionResults results = expected;
  results.output[0] += 2.1e-5;
  EXPECT_NE(CheckAttention(results, expected, oracle, {}).find("output"), std::string::npos);
  results = expected;
  results.dq[1] += 1.9e-5;
  EXPECT_EQ(CheckAttention(results, expected, oracle, {}), "");
  results.dq[1] += 0.2e-5;
  EXPECT_NE(CheckAttention(results, expected, oracle, {}).find("dq"), std::string::npos);
  results = expected;
  results.dk[0] = nan;
  EXPECT_NE(CheckAttention(results, expected, oracle, {}).find("dk"), std::string::npos);
  results = expected;
  results.dv.clear();
  EXPECT_NE(CheckAttention(results, expected, oracle, {}).find("dv"), std::string::npos);
}

}  // namespace
}  // namespace ringwise
