#include "attention/attention_oracle.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "attention/shard_attention_reference.h"
#include "attention/tiling.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

struct Problem {
  AttentionShape shape;
  AttentionOptions options;  // without bias and sinks
  Positions query_positions;
  Positions key_positions;
  std::optional<Shape> bias = {};
  bool sinks = false;
  bool logsumexp_gradient = false;
};

Tensor RandomTensor(MemoryMeter& meter, uint64_t seed, Shape shape) {
  Tensor tensor(meter, MemoryCategory::kWorkspace, DType::kF32, shape);
  Random random(seed, 0);
  for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<float>()[i] = random.Normal();
  return tensor;
}

Mask Documents() {
  const std::vector<int32_t> queries = {3, 3, -1, 7, 3};
  const std::vector<int32_t> keys = {3, 7, 7, -1, 3, 3};
  const std::vector<Segments> q = {ToSegments(queries, 1), ToSegments(queries, 0)};
  const std::vector<Segments> k = {ToSegments(keys, 0), ToSegments(keys, 0)};
  return {.segments = std::make_shared<SegmentMap>(q, k)};
}

Mask Slices() {
  return {.slices = std::make_shared<std::vector<MaskSlice>>(
              std::vector<MaskSlice>{{0, 0, 3, 0, 4, SliceKind::kCausal},
                                     {1, 1, 5, 1, 6, SliceKind::kInverseCausal},
                                     {{}, 2, 4, 2, 6, SliceKind::kBoth},
                                     {{}, 4, 5, 0, 2, SliceKind::kFull}})};
}

const float kInf = std::numeric_limits<float>::infinity();
const Mask kFull{.causal = false};
const Mask kCausal{.causal = true};

std::vector<Problem> Problems() {
  const DType f32 = DType::kF32;
  const AttentionOptions cap{.mask = kCausal, .softcap = 0.8, .alibi_slopes = {0.5f, -0.2f}};
  const AttentionOptions drop{.scale = 0.6,
                              .mask = {.window_left = 3, .window_right = 2},
                              .alibi_slopes = {0.1f, 0.3f},
                              .dropout = {.probability = 0.4, .seed = 9}};
  const Positions five = {{0, 5, 1}};
  const Positions six = {{0, 6, 1}};
  return {
      {{2, 4, 2, 3, 3, f32}, {std::nullopt, kCausal}, {{2, 5, 1}}, {{0, 7, 1}}},
      {{1, 3, 3, 5, 5, f32}, {0.7, kFull}, {{0, 4, 2}, {20, 1, 1}}, six, {}, false, true},
      // The first two queries see nothing.
      {{1, 6, 2, 1, 1, f32}, {-1.3, kCausal}, six, {{2, 3, 1}}},
      {{1, 6, 2, 1, 2, f32}, {-1.3, kCausal}, six, {{2, 3, 1}}, Shape{1, 6, 1, 5}, true, true},
      {{1, 2, 1, 4, 4, f32}, {0.0, kFull}, {{0, 2, 1}}, {{0, 3, 1}}},
      {{2, 2, 1, 3, 2, f32}, cap, {{1, 5, 1}}, six, Shape{2, 2, 5, 6}, true, true},
      {{2, 2, 2, 2, 5, f32}, drop, {{-2, 5, 1}}, {{1, 2, 3}}, Shape{1, 2, 5, 7}, false, true},
      {{2, 2, 1, 1, 3, f32}, drop, five, six, Shape{2, 1, 5, 6}, true, false},
      {{2, 2, 1, 3, 1, f32}, {{}, Documents(), 1.5}, five, six, Shape{1, 1, 5, 6}, true, true},
      {{2, 2, 2, 2, 2, f32}, {{}, Slices()}, five, six, Shape{2, 2, 1, 6}, true, true},
      {{1, 2, 1, 2, 3, f32}, {{}, {.causal_block = 2}, 2.0}, five, six, Shape{1, 1, 1, 6}},
  };
}

class Oracle : public testing::TestWithParam<int> {
 protected:
  Oracle() {
    if (problem_.bias) {
      bias_ = RandomTensor(meter_, 5, *problem_.bias);
      bias_.data<float>()[1] = -kInf;
      case_.options.bias = std::as_const(bias_).view();
    }
    if (problem_.sinks) case_.options.sinks = std::as_const(sinks_).view();
    if (problem_.logsumexp_gradient) {
      case_.logsumexp_gradient = std::as_const(logsumexp_gradient_).view();
    }
  }

  const Problem problem_ = Problems()[GetParam()];
  const AttentionShape& shape_ = problem_.shape;
  int64_t q_len_ = Count(problem_.query_positions);
  int64_t kv_len_ = Count(problem_.key_positions);
  MemoryMeter meter_;
  Tensor query_ = RandomTensor(meter_, 1, {shape_.batch, q_len_, shape_.heads, shape_.head_dim});
  Tensor key_ = RandomTensor(meter_, 2, {shape_.batch, kv_len_, shape_.kv_heads, shape_.head_dim});
  Tensor value_ =
      RandomTensor(meter_, 3, {shape_.batch, kv_len_, shape_.kv_heads, shape_.value_dim});
  Tensor output_gradient_ =
      RandomTensor(meter_, 4, {shape_.batch, q_len_, shape_.heads, shape_.value_dim});
  Tensor sinks_ = RandomTensor(meter_, 6, {shape_.heads});
  Tensor logsumexp_gradient_ = RandomTensor(meter_, 7, {shape_.batch, shape_.heads, q_len_});
  Tensor bias_;
  AttentionCase case_{problem_.options,
                      problem_.query_positions,
                      problem_.key_positions,
                      query_.view(),
                      key_.view(),
                      value_.view(),
                      output_gradient_.view()};

  // The scalar whose gradient is taken: sum of output x output_gradient and of logsumexp x
  // logsumexp_gradient, but for the rows that see nothing.
  double Loss() {
    AttentionCase forward = case_;
    forward.output_gradient = {};
    const AttentionOracle oracle = ComputeAttentionOracle(forward);
    double sum = 0;
    for (size_t i = 0; i < oracle.output.size(); ++i) {
      sum += oracle.output[i] * output_gradient_.data<float>()[i];
    }
    if (!problem_.logsumexp_gradient) return sum;
    for (size_t i = 0; i < oracle.logsumexp.size(); ++i) {
      if (std::isinf(oracle.logsumexp[i])) continue;
      sum += oracle.logsumexp[i] * logsumexp_gradient_.data<float>()[i];
    }
    return sum;
  }

  // Central differences: the step is a power of two, so that x + h and x - h are exact differences.
  void ExpectFiniteDifferences(const char* name, Tensor& tensor,
                               const std::vector<double>& gradient) {
    SCOPED_TRACE(name);
    ASSERT_EQ(std::ssize(gradient), tensor.elements());
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      float& x = tensor.data<float>()[i];
      const float saved = x;
      if (std::isinf(saved)) {
        EXPECT_EQ(gradient[i], 0) << i;
        continue;
      }
      x = saved + 0x1p-10f;
      const double above = Loss();
      const double high = x;
      x = saved - 0x1p-10f;
      const double below = Loss();
      const double low = x;
      x = saved;
      // The third derivative is of order 10 here: error about 10 h^2 / 6.
      EXPECT_NEAR((above - below) / (high - low), gradient[i], 1e-5) << i;
    }
  }
};

TEST_P(Oracle, GradientsAreFiniteDifferences) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  ExpectFiniteDifferences("dq", query_, oracle.dq);
  ExpectFiniteDifferences("dk", key_, oracle.dk);
  ExpectFiniteDifferences("dv", value_, oracle.dv);
  if (problem_.bias) ExpectFiniteDifferences("dbias", bias_, oracle.dbias);
  if (problem_.sinks) ExpectFiniteDifferences("dsinks", sinks_, oracle.dsinks);
}

// The equation of ringwise/attention_options.h once more, without a maximum taken out, for the
// first sequence and the first element of each output.
TEST_P(Oracle, LogSumExpAndOutputByHand) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  const AttentionShape& s = shape_;
  const AttentionOptions& o = problem_.options;
  const double scale = o.scale.value_or(1 / std::sqrt(s.head_dim));
  for (int64_t h = 0; h < s.heads; ++h) {
    for (int64_t i = 0; i < q_len_; ++i) {
      const int64_t query_position = At(problem_.query_positions, i);
      double sum = problem_.sinks ? std::exp(double{sinks_.data<float>()[h]}) : 0;
      double weighted = 0;
      for (int64_t j = 0; j < kv_len_; ++j) {
        const int64_t key_position = At(problem_.key_positions, j);
        if (!Sees({o.mask, 0, h}, query_position, key_position)) continue;
        const int64_t kv_head = h / (s.heads / s.kv_heads);
        double score = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          score += scale * *query_.view().at<float>(0, i, h, d) *
                   *key_.view().at<float>(0, j, kv_head, d);
        }
        if (o.softcap > 0) score = o.softcap * std::tanh(score / o.softcap);
        if (!o.alibi_slopes.empty()) {
          score -= o.alibi_slopes[h] * std::abs(static_cast<double>(query_position - key_position));
        }
        if (problem_.bias) {
          const Shape& shape = bias_.shape();
          score += *bias_.view().at<float>(0, shape[1] == 1 ? 0 : h, shape[2] == 1 ? 0 : i,
                                           key_position);
        }
        double weight = std::exp(score);
        sum += weight;
        if (!Keeps(o.dropout, 0, h, query_position, key_position)) weight = 0;
        weighted +=
            weight / (1 - o.dropout.probability) * *value_.view().at<float>(0, j, kv_head, 0);
      }
      const double logsumexp = oracle.logsumexp[h * q_len_ + i];
      const double output = oracle.output[(i * s.heads + h) * s.value_dim];
      if (sum == 0) {
        EXPECT_EQ(logsumexp, -kInf);
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
  const AttentionShape& s = shape_;
  ReferenceShardForward forward(s, case_.options, query_.view(), problem_.query_positions);
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

  for (const Travelling travelling : {Travelling::kKeys, Travelling::kQueries}) {
    const bool keys_travel = travelling == Travelling::kKeys;
    if (!keys_travel && case_.options.bias) continue;
    ReferenceShardBackward backward({s,
                                     case_.options,
                                     {query_.view(), key_.view(), value_.view()},
                                     output_gradient_.view(),
                                     case_.logsumexp_gradient,
                                     forward.Output(),
                                     forward.LogSumExp(),
                                     problem_.query_positions,
                                     problem_.key_positions},
                                    travelling);
    const Positions& all = keys_travel ? problem_.key_positions : problem_.query_positions;
    const int64_t third = Count(all) / 3;
    backward.AttendOwn({0, third}, {});
    const Range rest{third, Count(all)};
    std::vector<std::byte> block(backward.BytesOf(rest.size()).block);
    std::vector<std::byte> gradient(backward.BytesOf(rest.size()).gradient);
    backward.Pack(rest, block);
    backward.Attend(block, PositionsOf(all, rest), gradient, {});
    backward.AddGradient(rest, gradient);
    EXPECT_LE(LargestError(backward.KeyGradient(), oracle.dk), 1e-12);
    EXPECT_LE(LargestError(backward.ValueGradient(), oracle.dv), 1e-12);
    EXPECT_LE(LargestError(backward.QueryGradient(), oracle.dq), 1e-12);
    EXPECT_LE(LargestError(backward.BiasGradient(), oracle.dbias), 1e-12);
    EXPECT_LE(LargestError(backward.SinkGradient(), oracle.dsinks), 1e-12);
  }
}

// Each sum of absolute terms bounds its gradient.
TEST_P(Oracle, TermsBoundTheGradients) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  for (const MeasuredTensor& m : MeasuredTensors()) {
    if (m.tensor == &AttentionResults::logsumexp) continue;
    ASSERT_EQ((oracle.*m.tensor).size(), (oracle.*m.terms).size()) << m.name;
    for (size_t i = 0; i < (oracle.*m.tensor).size(); ++i) {
      EXPECT_LE(std::abs((oracle.*m.tensor)[i]), (oracle.*m.terms)[i] * (1 + 1e-12)) << m.name;
    }
  }
}

TEST_P(Oracle, PlainBf16IsNearButNotEqual) {
  const AttentionOracle oracle = ComputeAttentionOracle(case_);
  const AttentionOracle plain = ComputePlainBf16Attention(case_);
  EXPECT_LE(LargestError(plain.output, oracle.output), 0.05);
  EXPECT_GT(LargestError(plain.output, oracle.output), 1e-5);
  EXPECT_LE(LargestError(plain.dv, oracle.dv), 0.1);
  EXPECT_LE(LargestError(plain.dbias, oracle.dbias), 0.1);
  EXPECT_LE(LargestError(plain.dsinks, oracle.dsinks), 0.1);
}

INSTANTIATE_TEST_SUITE_P(Problems, Oracle,
                         testing::Range(0, static_cast<int>(std::ssize(Problems()))));

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

  const AttentionOracle oracle{
      {{1, -2}, {0.5, -infinity}, {1, 1}, {1}, {4}, {2}, {3}}, {10, 2}, {3}, {5}, {6}, {}, {}};
  const AttentionResults expected = oracle;
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
  results.dbias[0] += 1.1e-5;
  EXPECT_NE(CheckAttention(results, expected, oracle, {}).find("dbias"), std::string::npos);
  results = expected;
  results.dsinks[0] += 1.3e-5;
  EXPECT_NE(CheckAttention(results, expected, oracle, {}).find("dsinks"), std::string::npos);
  results = expected;
  results.dv.clear();
  EXPECT_NE(CheckAttention(results, expected, oracle, {}).find("dv"), std::string::npos);
}

}  // namespace
}  // namespace ringwise
