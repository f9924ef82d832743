#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "attention/backward_workspace.h"
#include "attention/shard_case.h"
#include "ringwise/random.h"

// Backward of one device with every option of attention, against the oracle.
namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Positions Contiguous(int64_t count, int64_t start = 0) { return {{start, count, 1}}; }

void Check(const ShardCase& c) {
  SCOPED_TRACE(c.ToString());
  EXPECT_EQ(ComputeAndCheckShard(c), "");
}

void CheckBothTypes(ShardCase c) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    c.dtype = dtype;
    Check(c);
  }
}

// Documents of which some ids come twice, with padding between them.
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

std::vector<Mask> Masks() {
  return {
      {.causal = true, .window_left = 100},
      {.window_left = 30, .window_right = 200},
      {.causal_block = 130},
      {.segments = Documents(2, 900, 3)},
      {.slices = Slices()},
      {.causal = true, .window_left = 400, .segments = Documents(2, 900, 4), .slices = Slices()},
      {.slices = std::make_shared<const std::vector<MaskSlice>>()}};
}

// Long enough for products in bf16, and for steps inside a tile that are full or see nothing.
ShardCase Large() {
  ShardCase c;
  c.batch = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 20;
  c.value_dim = 24;
  c.queries = {{0, 100, 2}, {400, 233, 1}};
  c.key_blocks = {Contiguous(500), {{500, 101, 2}, {703, 97, 1}}};
  return c;
}

TEST(BackwardOptions, ValuesOfTheirOwnLength) {
  for (const auto& [head_dim, value_dim] :
       {std::pair{64, 16}, std::pair{17, 130}, std::pair{1, 3}, std::pair{256, 40}}) {
    ShardCase c = Large();
    c.head_dim = head_dim;
    c.value_dim = value_dim;
    c.options.mask.causal = true;
    c.queries = Contiguous(203, 60);
    c.key_blocks = {Contiguous(201), Contiguous(62, 201)};
    c.logsumexp_gradient = true;
    c.seed = head_dim;
    CheckBothTypes(c);
  }
}

TEST(BackwardOptions, MasksByPlane) {
  uint64_t seed = 100;
  for (const Mask& mask : Masks()) {
    ShardCase c = Large();
    c.options.mask = mask;
    c.threads = 1 + static_cast<int>(seed % 3);
    c.sinks = seed % 2 == 0;
    c.logsumexp_gradient = true;
    c.seed = seed++;
    CheckBothTypes(c);
  }
}

// By definition: the (query block, key tile) pairs of every head that have a visible pair.
TEST(BackwardOptions, CountsTilesWithAVisiblePair) {
  for (const Mask& mask : Masks()) {
    ShardCase c = Large();
    c.options.mask = mask;
    const AttentionStats stats = ComputeShard(c, ShardInputs(c)).backward;
    EXPECT_EQ(stats.tile_queries, kBackwardQueryBlock);
    EXPECT_EQ(stats.tile_keys, BackwardTileRows(c.shape(), Count(c.queries), c.threads));
    int64_t tiles = 0;
    for (const Positions& block : c.key_blocks) {
      for (const RowBlock& keys : CutIntoBlocks(block, stats.tile_keys)) {
        for (const RowBlock& queries : CutIntoBlocks(c.queries, stats.tile_queries)) {
          for (int64_t plane = 0; plane < 8; ++plane) {
            const MaskPlane of{mask, plane / 4, plane % 4};
            if (CountVisible(of, {queries.positions}, {keys.positions}) > 0) ++tiles;
          }
        }
      }
    }
    EXPECT_EQ(stats.tiles, tiles);
  }
}

TEST(BackwardOptions, SinksAndGradientOfLogSumExp) {
  ShardCase c;
  c.batch = 2;
  c.heads = 3;
  c.head_dim = 40;
  c.options.mask.causal = true;
  c.queries = Contiguous(200);
  c.key_blocks = {Contiguous(100, 90)};  // the first 90 rows see the sink alone
  c.sinks = true;
  for (const bool gradient : {false, true}) {
    c.logsumexp_gradient = gradient;
    CheckBothTypes(c);
    const ShardInputs inputs(c);
    *inputs.sinks->at<float>(1) = -kInfinity;  // takes no part, and rows may see nothing at all
    const ShardResults results = ComputeShard(c, inputs);
    EXPECT_EQ(CheckShard(c, inputs, results), "");
    EXPECT_EQ(results.dsinks[1], 0);
    for (int64_t i = 0; i < 3 * 40; ++i) EXPECT_EQ(results.dq[i], 0) << i;
  }
}

TEST(BackwardOptions, SoftcapAndAlibi) {
  for (const double softcap : {0.0, 2.5}) {
    for (const bool alibi : {false, true}) {
      ShardCase c = Large();
      c.batch = 1;
      c.head_dim = 48;
      c.options.softcap = softcap;
      if (alibi) c.options.alibi_slopes = {0.5f, 0.0f, 0.01f, -0.02f};
      c.options.mask.causal = alibi;
      c.seed = 300 + static_cast<uint64_t>(softcap) + (alibi ? 1 : 0);
      CheckBothTypes(c);
    }
  }
}

// Whatever the bias is broadcast over, and whichever heads and threads share its rows.
TEST(BackwardOptions, BiasUnderEveryBroadcast) {
  for (int axes = 0; axes < 8; ++axes) {
    ShardCase c = Large();
    c.kv_heads = axes % 3 == 0 ? 1 : 2;
    c.bias = std::array{(axes & 1) != 0, (axes & 2) != 0, (axes & 4) != 0};
    c.options.mask.causal = axes % 3 == 0;
    c.options.softcap = axes % 2 == 0 ? 3.0 : 0.0;
    c.queries = Contiguous(103, 500);
    c.threads = 3;
    c.seed = 400 + axes;
    CheckBothTypes(c);
  }
}

TEST(BackwardOptions, BiasOfMinusInfinity) {
  for (const bool more : {false, true}) {
    ShardCase c;
    c.heads = 2;
    c.kv_heads = 1;
    c.head_dim = 24;
    c.queries = Contiguous(150);
    c.key_blocks = {Contiguous(450)};
    c.bias = std::array{false, true, true};
    c.sinks = more;
    c.logsumexp_gradient = true;
    if (more) c.options.softcap = 4;
    const ShardInputs inputs(c);
    Random random(9, 9);
    std::vector<bool> hidden;
    for (int64_t i = 0; i < 2 * 150 * 450; ++i) {
      const int64_t row = i / 450 % 150;
      hidden.push_back(random.Below(5) == 0 || row == 70);
      if (hidden.back()) *inputs.bias->at<float>(0, i / 450 / 150, row, i % 450) = -kInfinity;
    }
    const ShardResults results = ComputeShard(c, inputs);
    EXPECT_EQ(CheckShard(c, inputs, results), "");
    for (size_t i = 0; i < hidden.size(); ++i) {
      ASSERT_TRUE(!hidden[i] || results.dbias[i] == 0) << i;
    }
    for (int64_t i = 0; i < 48; ++i) EXPECT_EQ(results.dq[70 * 48 + i], 0);
  }
}

TEST(BackwardOptions, Dropout) {
  for (const double probability : {0.1, 0.7}) {
    ShardCase c = Large();
    c.options.dropout = {.probability = probability, .seed = 5, .first_batch = 3, .first_head = 2};
    c.options.mask.causal = true;
    c.logsumexp_gradient = true;
    c.seed = 500;
    CheckBothTypes(c);
  }
}

TEST(BackwardOptions, AnyTogether) {
  for (uint64_t seed = 1000; seed < 1040; ++seed) {
    Random random(seed, 8);
    const auto one_in = [&](uint64_t n) { return random.Below(n) == 0; };
    const auto below = [&](uint64_t n) { return static_cast<int64_t>(random.Below(n)); };
    ShardCase c;
    c.seed = seed;
    c.batch = 1 + below(2);
    c.kv_heads = 1 + below(2);
    c.heads = c.kv_heads * (1 + below(3));
    c.head_dim = 1 + below(90);
    c.value_dim = 1 + below(90);
    Mask& mask = c.options.mask;
    mask.causal = one_in(2);
    if (one_in(3)) mask.window_left = below(200);
    if (one_in(3)) mask.window_right = below(200);
    if (one_in(4)) mask.causal_block = 1 + below(100);
    if (one_in(3)) mask.segments = Documents(c.batch, 700, seed);
    if (one_in(4)) mask.slices = Slices();
    if (one_in(3)) c.options.softcap = 3;
    if (one_in(3)) c.options.alibi_slopes.assign(c.heads, 0.03f);
    if (one_in(3)) c.options.dropout = {.probability = 0.3, .seed = seed};
    c.sinks = one_in(3);
    c.logsumexp_gradient = one_in(2);
    if (one_in(2)) c.bias = std::array{one_in(2), one_in(2), one_in(2)};
    c.queries = {{below(50), below(150), 1 + below(3)}, {500, below(100), 1}};
    c.key_blocks = {{{below(9), below(130), 1 + below(3)}}, Contiguous(below(200), 450)};
    c.threads = 1 + static_cast<int>(below(4));
    CheckBothTypes(c);
  }
}

TEST(BackwardOptions, SameBitsEveryTime) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c = Large();
    c.dtype = dtype;
    c.options.mask.causal = true;
    c.options.softcap = 3;
    c.options.dropout = {.probability = 0.2, .seed = 1};
    c.bias = std::array{false, false, false};
    c.sinks = true;
    c.threads = 3;
    const ShardInputs inputs(c);
    const ShardResults first = ComputeShard(c, inputs);
    for (int repeat = 0; repeat < 4; ++repeat) {
      const ShardResults again = ComputeShard(c, inputs);
      for (const MeasuredTensor& measured : MeasuredTensors()) {
        EXPECT_EQ(first.*measured.tensor, again.*measured.tensor) << measured.name;
      }
    }
  }
}

// So few keys a row that single probabilities decide, in products in bf16.
TEST(BackwardOptions, FewVisibleKeys) {
  for (const int64_t left : {0, 1, 5, 30}) {
    for (const int64_t head_dim : {24, 64}) {
      ShardCase c;
      c.heads = 2;
      c.dtype = DType::kBF16;
      c.head_dim = head_dim;
      c.options.mask = {.causal = true, .window_left = left};
      c.queries = Contiguous(700);
      c.key_blocks = {Contiguous(700)};
      c.seed = 600 + left;
      Check(c);
    }
  }
}

// Pairs that are hidden, by the mask or the bias, or dropped: an infinite factor reaches nothing
// through them.
TEST(BackwardOptions, UnusedInfinitiesStayOut) {
  enum class Unused { kMasked, kBiased, kDropped };
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Unused unused : {Unused::kMasked, Unused::kBiased, Unused::kDropped}) {
      ShardCase c;
      c.heads = 8;
      c.kv_heads = 8;
      c.head_dim = 20;
      c.value_dim = 24;
      c.dtype = dtype;
      c.queries = Contiguous(420);
      c.key_blocks = {Contiguous(420)};
      if (unused == Unused::kMasked) c.options.mask = {.segments = Documents(1, 420, 7)};
      if (unused == Unused::kBiased) c.bias = std::array{false, false, true};
      if (unused == Unused::kDropped) c.options.dropout = {.probability = 0.5, .seed = 2};
      const ShardInputs inputs(c);
      for (int64_t key = 100; c.bias && key < 300; ++key) {
        *inputs.bias->at<float>(0, 0, 200, key) = -kInfinity;
      }
      DispatchDType(dtype,
                    [&]<class T>(T) { inputs.output_gradient.at<T>(0, 200, 0)[3] = T(kInfinity); });
      const ShardResults results = ComputeShard(c, inputs);
      for (int64_t row = 0; row < 420; ++row) {
        const bool seen = Sees({c.options.mask}, 200, row) && !(c.bias && row >= 100 && row < 300);
        const bool used = seen && Keeps(c.options.dropout, 0, 0, 200, row);
        const double dv = results.dv[row * 8 * 24 + 3];
        EXPECT_EQ(std::isfinite(dv), !used) << row;
        EXPECT_FALSE(std::isnan(dv)) << row;
        EXPECT_EQ(std::isfinite(results.dq[row * 8 * 20]), row != 200) << row;
        EXPECT_EQ(std::isfinite(results.dk[row * 8 * 20]), !seen) << row;
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
