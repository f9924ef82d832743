#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attention/attention_oracle.h"
#include "attention/comparison.h"
#include "attention/shard_attention.h"
#include "ringwise/random.h"

// The tiled backward under every option, alone: it starts from the oracle's output and logsumexp.
namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Positions Contiguous(int64_t count, int64_t start = 0) { return {{start, count, 1}}; }

struct Case {
  AttentionShape shape{1, 1, 1, 64, 64, DType::kF32};
  AttentionOptions options = {};
  std::optional<Shape> bias = {};
  bool sinks = false;
  bool logsumexp_gradient = false;
  Positions queries = Contiguous(300);
  std::vector<Positions> key_blocks = {Contiguous(300)};
  int threads = 2;
  uint64_t seed = 1;

  int64_t q_len() const { return Count(queries); }
  Positions keys() const {
    Positions all;
    for (const Positions& block : key_blocks) all.insert(all.end(), block.begin(), block.end());
    return all;
  }
};

class Problem {
 public:
  explicit Problem(const Case& c)
      : c_(c),
        query_(Make(1, c.shape.dtype, {c.shape.batch, c.q_len(), c.shape.heads, c.shape.head_dim})),
        key_(Make(2, c.shape.dtype, KeyRows(c.shape.head_dim))),
        value_(Make(3, c.shape.dtype, KeyRows(c.shape.value_dim))),
        output_gradient_(
            Make(4, c.shape.dtype, {c.shape.batch, c.q_len(), c.shape.heads, c.shape.value_dim})),
        sinks_(Make(5, DType::kF32, {c.shape.heads})),
        logsumexp_gradient_(Make(6, DType::kF32, {c.shape.batch, c.shape.heads, c.q_len()})) {
    if (c.bias) bias_ = Make(7, DType::kF32, *c.bias);
  }

  AttentionOptions Options() const {
    AttentionOptions options = c_.options;
    if (c_.bias) options.bias = bias_.view();
    if (c_.sinks) options.sinks = sinks_.view();
    return options;
  }
  AttentionCase ForOracle() const {
    AttentionCase oracle{Options(),
                         c_.queries,
                         c_.keys(),
                         query_.view(),
                         key_.view(),
                         value_.view(),
                         output_gradient_.view()};
    if (c_.logsumexp_gradient) oracle.logsumexp_gradient = logsumexp_gradient_.view();
    return oracle;
  }

  // What backward makes of the output and logsumexp in `forward`.
  AttentionResults Backward(const AttentionResults& forward, AttentionStats* stats = nullptr) {
    ThreadTeam team(c_.threads);
    Context context{team, meter_};
    const AttentionShape& shape = c_.shape;
    const Tensor output = FromDoubles(forward.output, output_gradient_.shape());
    const Tensor logsumexp = FromDoubles(forward.logsumexp, logsumexp_gradient_.shape());
    AttentionSaved saved{output.view(), logsumexp.view(), std::as_const(output_gradient_).view()};
    if (c_.logsumexp_gradient) saved.logsumexp_gradient = std::as_const(logsumexp_gradient_).view();
    Tensor dq = Empty(query_), dk = Empty(key_), dv = Empty(value_), dbias, dsinks;
    AttentionGradients gradients{dq.view(), dk.view(), dv.view()};
    if (c_.bias) {
      dbias = Empty(bias_);
      gradients.bias = dbias.view();
    }
    if (c_.sinks) {
      dsinks = Empty(sinks_);
      gradients.sinks = dsinks.view();
    }
    const auto backward = MakeShardAttentionBackward(
        context, shape, Options(), std::as_const(query_).view(), saved, c_.queries, gradients.bias);
    int64_t begin = 0;
    for (const Positions& keys : c_.key_blocks) {
      const int64_t count = Count(keys);
      Buffer block(meter_, MemoryCategory::kRingBuffers, backward->BlockBytes(count));
      Buffer sum(meter_, MemoryCategory::kRingBuffers, backward->GradientBytes(count));
      std::fill(sum.bytes().begin(), sum.bytes().end(), std::byte{0});
      backward->Pack(key_.view().Slice(1, begin, count), value_.view().Slice(1, begin, count), keys,
                     block.bytes());
      backward->Attend(block.bytes(), keys, sum.bytes(), {});
      backward->UnpackGradient(sum.bytes(), dk.view().Slice(1, begin, count),
                               dv.view().Slice(1, begin, count));
      begin += count;
    }
    backward->Finish(gradients);
    if (stats != nullptr) *stats = backward->stats();
    AttentionResults results;
    results.output = forward.output;
    results.logsumexp = forward.logsumexp;
    results.dq = ToDoubles(dq.view());
    results.dk = ToDoubles(dk.view());
    results.dv = ToDoubles(dv.view());
    if (c_.bias) results.dbias = ToDoubles(dbias.view());
    if (c_.sinks) results.dsinks = ToDoubles(dsinks.view());
    return results;
  }

  Tensor& query() { return query_; }
  Tensor& key() { return key_; }
  Tensor& value() { return value_; }
  Tensor& output_gradient() { return output_gradient_; }
  Tensor& bias() { return bias_; }
  Tensor& sinks() { return sinks_; }

 private:
  Shape KeyRows(int64_t dim) const {
    return {c_.shape.batch, Count(c_.keys()), c_.shape.kv_heads, dim};
  }
  Tensor Make(uint64_t stream, DType dtype, Shape shape) {
    Tensor tensor(meter_, MemoryCategory::kWorkspace, dtype, shape);
    Random random(c_.seed, stream);
    DispatchDType(dtype, [&]<class T>(T) {
      for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<T>()[i] = T(random.Normal());
    });
    return tensor;
  }
  // Of the same type and shape, full of NaN.
  Tensor Empty(const Tensor& like) {
    Tensor tensor(meter_, MemoryCategory::kGradients, like.dtype(), like.shape());
    DispatchDType(like.dtype(), [&]<class T>(T) {
      std::fill_n(tensor.data<T>(), tensor.elements(), T(std::nanf("")));
    });
    return tensor;
  }
  Tensor FromDoubles(const std::vector<double>& values, Shape shape) {
    Tensor tensor(meter_, MemoryCategory::kActivations, DType::kF32, shape);
    std::transform(values.begin(), values.end(), tensor.data<float>(),
                   [](double value) { return static_cast<float>(value); });
    return tensor;
  }

  const Case c_;
  MemoryMeter meter_;
  Tensor query_, key_, value_, output_gradient_, sinks_, logsumexp_gradient_, bias_;
};

void Compare(const AttentionResults& results, const AttentionOracle& oracle, Problem& problem,
             DType dtype) {
  for (const std::vector<double>* gradient :
       {&results.dq, &results.dk, &results.dv, &results.dbias, &results.dsinks}) {
    EXPECT_TRUE(std::none_of(gradient->begin(), gradient->end(),
                             [](double value) { return std::isnan(value); }));
  }
  if (dtype == DType::kF32) {
    EXPECT_EQ(CheckAttention(results, Results(oracle), oracle, {}), "");
    return;
  }
  const AttentionOracle plain = ComputePlainBf16Attention(problem.ForOracle());
  for (const MeasuredTensor& measured : MeasuredTensors()) {
    const std::vector<double>& actual = results.*measured.tensor;
    const std::vector<double>& expected = oracle.*measured.tensor;
    const std::vector<double>& yardstick = plain.*measured.tensor;
    if (expected.empty() && actual.empty()) continue;
    const double floor =
        (measured.cancels ? 2e-6 : 1e-5) * LargestMagnitude(oracle.*measured.scale);
    EXPECT_LE(RmsError(actual, expected), std::max(floor, 1.1 * RmsError(yardstick, expected)))
        << measured.name;
    EXPECT_LE(LargestError(actual, expected),
              std::max(floor, 2 * LargestError(yardstick, expected)))
        << measured.name;
  }
}

// In both types.
void Check(Case c) {
  SCOPED_TRACE("seed " + std::to_string(c.seed));
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    SCOPED_TRACE(Name(dtype));
    c.shape.dtype = dtype;
    Problem problem(c);
    const AttentionOracle oracle = ComputeAttentionOracle(problem.ForOracle());
    Compare(problem.Backward(oracle), oracle, problem, dtype);
  }
}

TEST(ShardBackward, ValuesOfTheirOwnLength) {
  for (const auto& [head_dim, value_dim] :
       {std::pair{64, 16}, std::pair{17, 130}, std::pair{1, 3}, std::pair{256, 40}}) {
    Case c;
    c.shape = {2, 4, 2, head_dim, value_dim, DType::kF32};
    c.options.mask.causal = true;
    c.queries = Contiguous(203, 60);
    c.key_blocks = {Contiguous(201), Contiguous(62, 201)};
    c.logsumexp_gradient = true;
    c.seed = head_dim;
    Check(c);
  }
}

std::shared_ptr<const SegmentMap> Documents(int64_t batch, int64_t length, uint64_t seed) {
  std::vector<Segments> sequences;
  for (int64_t b = 0; b < batch; ++b) {
    Random random(seed, b);
    Segments segments;
    for (int64_t at = 0; at < length;) {
      const int64_t end = std::min(length, at + 1 + static_cast<int64_t>(random.Below(250)));
      segments.push_back({at, end, static_cast<int32_t>(random.Below(6))});
      at = end + static_cast<int64_t>(random.Below(20));
    }
    sequences.push_back(segments);
  }
  return std::make_shared<SegmentMap>(sequences, sequences);
}

std::shared_ptr<const std::vector<MaskSlice>> Slices() {
  return std::make_shared<const std::vector<MaskSlice>>(
      std::vector<MaskSlice>{{std::nullopt, 0, 300, 100, 700, SliceKind::kCausal},
                             {0, 200, 900, 0, 400, SliceKind::kInverseCausal},
                             {2, 500, 900, 300, 900, SliceKind::kBoth},
                             {3, 100, 101, 0, 900, SliceKind::kFull}});
}

// Long enough for products in bf16, and for steps that are full or hidden inside a tile.
std::vector<Mask> Masks() {
  Mask window{.causal = true, .window_left = 100};
  Mask sided{.window_left = 30, .window_right = 200};
  Mask blocks{.causal_block = 130};
  Mask documents{.segments = Documents(2, 900, 3)};
  Mask slices{.slices = Slices()};
  Mask all{
      .causal = true, .window_left = 400, .segments = Documents(2, 900, 4), .slices = Slices()};
  Mask nothing{.slices = std::make_shared<const std::vector<MaskSlice>>()};
  return {window, sided, blocks, documents, slices, all, nothing};
}

TEST(ShardBackward, MasksByPlane) {
  uint64_t seed = 100;
  for (const Mask& mask : Masks()) {
    Case c;
    c.shape = {2, 4, 2, 20, 24, DType::kF32};
    c.options.mask = mask;
    c.queries = {{0, 100, 2}, {400, 233, 1}};
    c.key_blocks = {Contiguous(500), {{500, 101, 2}, {703, 97, 1}}};
    c.threads = 1 + static_cast<int>(seed % 3);
    c.sinks = true;
    c.logsumexp_gradient = true;
    c.seed = seed++;
    Check(c);
  }
}

TEST(ShardBackward, CountsTiles) {
  for (const Mask& mask : Masks()) {
    Case c;
    c.shape = {2, 4, 2, 80, 64, DType::kF32};
    c.options.mask = mask;
    c.queries = {{0, 150, 2}, {400, 333, 1}};
    c.key_blocks = {Contiguous(500), {{500, 101, 2}, {703, 197, 1}}};
    Problem problem(c);
    AttentionStats stats;
    AttentionResults forward;  // whatever it was
    forward.output.resize(8 * 483 * 64);
    forward.logsumexp.resize(8 * 483);
    problem.Backward(forward, &stats);
    ASSERT_EQ(stats.tile_queries, 128);
    ASSERT_EQ(stats.tile_keys, 192);
    int64_t tiles = 0;
    const auto cut = [](const Positions& positions, int64_t rows) {
      std::vector<PositionRun> parts;
      for (const PositionRun& run : positions) {
        for (int64_t i = 0; i < run.count; i += rows) {
          parts.push_back({run[i], std::min(rows, run.count - i), run.stride});
        }
      }
      return parts;
    };
    for (int64_t plane = 0; plane < 8; ++plane) {
      for (const PositionRun& queries : cut(c.queries, 128)) {
        for (const Positions& block : c.key_blocks) {
          for (const PositionRun& keys : cut(block, 192)) {
            tiles += CountVisible({mask, plane / 4, plane % 4}, {queries}, {keys}) > 0 ? 1 : 0;
          }
        }
      }
    }
    EXPECT_EQ(stats.tiles, tiles);
  }
}

TEST(ShardBackward, SinksAndGradientOfLogSumExp) {
  Case c;
  c.shape = {2, 3, 1, 40, 40, DType::kF32};
  c.options.mask.causal = true;
  c.queries = Contiguous(200);
  c.key_blocks = {Contiguous(100, 90)};  // the first 90 rows see the sink alone
  c.sinks = true;
  for (const bool gradient : {false, true}) {
    c.logsumexp_gradient = gradient;
    Check(c);
  }
}

TEST(ShardBackward, SinkThatTakesNoPart) {
  Case c;
  c.shape.heads = 2;
  c.sinks = true;
  c.options.mask.causal = true;
  c.queries = Contiguous(20);
  c.key_blocks = {Contiguous(10, 10)};
  c.logsumexp_gradient = true;
  Problem problem(c);
  problem.sinks().data<float>()[1] = -kInfinity;
  const AttentionOracle oracle = ComputeAttentionOracle(problem.ForOracle());
  const AttentionResults results = problem.Backward(oracle);
  Compare(results, oracle, problem, DType::kF32);
  EXPECT_EQ(results.dsinks[1], 0);
}

TEST(ShardBackward, SoftcapAndAlibi) {
  for (const double softcap : {0.0, 2.5}) {
    for (const bool alibi : {false, true}) {
      Case c;
      c.shape = {1, 4, 2, 48, 33, DType::kF32};
      c.options.softcap = softcap;
      if (alibi) c.options.alibi_slopes = {0.5f, 0.0f, 0.01f, -0.02f};
      c.options.mask.causal = alibi;
      c.queries = {{300, 130, 3}};
      c.key_blocks = {Contiguous(411), {{500, 201, 1}}};
      c.seed = 300 + static_cast<uint64_t>(softcap) + (alibi ? 1 : 0);
      Check(c);
    }
  }
}

TEST(ShardBackward, BiasUnderEveryBroadcast) {
  const int64_t q_len = 103;
  for (const int shape : {0, 1, 2, 3, 4, 5, 6, 7}) {
    Case c;
    c.shape = {2, 4, shape % 3 == 0 ? 1 : 2, 24, 16, DType::kF32};
    c.bias = Shape{(shape & 1) != 0 ? 2 : 1, (shape & 2) != 0 ? 4 : 1, (shape & 4) != 0 ? q_len : 1,
                   800};
    c.options.mask.causal = shape % 3 == 0;
    c.options.softcap = shape % 2 == 0 ? 3.0 : 0.0;
    c.queries = Contiguous(q_len, 500);
    c.key_blocks = {Contiguous(500), {{501, 100, 2}, {710, 90, 1}}};
    c.threads = 3;
    c.seed = 400 + shape;
    Check(c);
  }
}

TEST(ShardBackward, BiasOfMinusInfinity) {
  for (const bool all_options : {false, true}) {
    Case c;
    c.shape = {1, 2, 1, 24, 24, DType::kF32};
    c.queries = Contiguous(150);
    c.key_blocks = {Contiguous(450)};
    c.bias = Shape{1, 2, 150, 450};
    c.sinks = all_options;
    c.logsumexp_gradient = true;
    if (all_options) c.options.softcap = 4;
    Problem problem(c);
    Random random(9, 9);
    float* bias = problem.bias().data<float>();
    for (int64_t i = 0; i < problem.bias().elements(); ++i) {
      const int64_t row = i / 450 % 150;
      if (random.Below(5) == 0 || row == 70) bias[i] = -kInfinity;
    }
    const AttentionOracle oracle = ComputeAttentionOracle(problem.ForOracle());
    const AttentionResults results = problem.Backward(oracle);
    Compare(results, oracle, problem, DType::kF32);
    for (size_t i = 0; i < results.dbias.size(); ++i) {
      ASSERT_TRUE(!std::isinf(bias[i]) || results.dbias[i] == 0) << i;
    }
    for (int64_t i = 0; i < 48; ++i) EXPECT_EQ(results.dq[70 * 48 + i], 0);
  }
}

TEST(ShardBackward, Dropout) {
  for (const double probability : {0.1, 0.7}) {
    Case c;
    c.shape = {2, 4, 2, 40, 20, DType::kF32};
    c.options.dropout = {.probability = probability, .seed = 5, .first_batch = 3, .first_head = 2};
    c.options.mask.causal = true;
    c.queries = {{300, 130, 3}};
    c.key_blocks = {Contiguous(411), {{500, 201, 1}}};
    c.logsumexp_gradient = true;
    c.seed = 500;
    Check(c);
  }
}

// Everything at once, at random.
TEST(ShardBackward, RandomCompositions) {
  for (uint64_t seed = 1000; seed < 1040; ++seed) {
    Random random(seed, 8);
    const auto one_in = [&](uint64_t n) { return random.Below(n) == 0; };
    const auto below = [&](uint64_t n) { return static_cast<int64_t>(random.Below(n)); };
    Case c;
    c.seed = seed;
    const int64_t kv_heads = 1 + below(2);
    c.shape = {1 + below(2), kv_heads * (1 + below(3)), kv_heads, 1 + below(90), 1 + below(90),
               DType::kF32};
    Mask& mask = c.options.mask;
    mask.causal = one_in(2);
    if (one_in(3)) mask.window_left = below(200);
    if (one_in(3)) mask.window_right = below(200);
    if (one_in(4)) mask.causal_block = 1 + below(100);
    if (one_in(3)) mask.segments = Documents(c.shape.batch, 700, seed);
    if (one_in(4)) mask.slices = Slices();
    if (one_in(3)) c.options.softcap = 3;
    if (one_in(3)) c.options.alibi_slopes.assign(c.shape.heads, 0.03f);
    if (one_in(3)) c.options.dropout = {.probability = 0.3, .seed = seed};
    c.sinks = one_in(3);
    c.logsumexp_gradient = one_in(2);
    c.queries = {{below(50), below(150), 1 + below(3)}, {500, below(100), 1}};
    c.key_blocks = {{{below(9), below(130), 1 + below(3)}}, Contiguous(below(200), 450)};
    if (one_in(2)) {
      c.bias = Shape{one_in(2) ? 1 : c.shape.batch, one_in(2) ? 1 : c.shape.heads,
                     one_in(2) ? 1 : c.q_len(), 700};
    }
    c.threads = 1 + static_cast<int>(below(4));
    Check(c);
  }
}

TEST(ShardBackward, SameBitsEveryTime) {
  Case c;
  c.shape = {2, 4, 2, 32, 40, DType::kF32};
  c.options.mask.causal = true;
  c.options.softcap = 3;
  c.options.dropout = {.probability = 0.2, .seed = 1};
  c.bias = Shape{1, 1, 1, 900};
  c.sinks = true;
  c.queries = Contiguous(300, 600);
  c.key_blocks = {Contiguous(900)};
  c.threads = 3;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    c.shape.dtype = dtype;
    Problem problem(c);
    const AttentionOracle oracle = ComputeAttentionOracle(problem.ForOracle());
    const AttentionResults first = problem.Backward(oracle);
    for (int repeat = 0; repeat < 4; ++repeat) {
      const AttentionResults again = problem.Backward(oracle);
      for (const MeasuredTensor& measured : MeasuredTensors()) {
        EXPECT_EQ(first.*measured.tensor, again.*measured.tensor) << measured.name;
      }
    }
  }
}

// Pairs that are hidden, by the mask or the bias, or dropped: infinite factors reach what they are
// multiplied by nowhere else.
TEST(ShardBackward, UnusedInfinitiesStayWhereTheyAre) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool dropout : {false, true}) {
      Case c;
      c.shape = {1, 8, 8, 20, 24, dtype};
      c.options.mask = {.causal = true, .segments = Documents(1, 420, 7)};
      if (dropout) c.options.dropout = {.probability = 0.5, .seed = 2};
      c.queries = Contiguous(420);
      c.key_blocks = {Contiguous(420)};
      Problem clean(c);
      const AttentionOracle oracle = ComputeAttentionOracle(clean.ForOracle());
      Problem problem(c);
      DispatchDType(dtype, [&]<class T>(T) {
        problem.output_gradient().view().template at<T>(0, 200, 0)[3] = T(kInfinity);
      });
      const AttentionResults results = problem.Backward(oracle);
      for (int64_t row = 0; row < 420; ++row) {
        const double dv = results.dv[row * 8 * 24 + 3];
        const bool reached = Sees({c.options.mask}, 200, row) &&
                             (!dropout || Keeps(c.options.dropout, 0, 0, 200, row));
        EXPECT_EQ(std::isfinite(dv), !reached) << row;
        EXPECT_FALSE(std::isnan(dv)) << row;
        EXPECT_EQ(std::isfinite(results.dq[row * 8 * 20]), row != 200) << row;
        EXPECT_EQ(std::isfinite(results.dk[row * 8 * 20]), !Sees({c.options.mask}, 200, row))
            << row;
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
