#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attention/shard_case.h"
#include "attention/tiling.h"
#include "ringwise/random.h"

// Forward of one device with every option of attention, against the oracle.
namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Positions Contiguous(int64_t count, int64_t start = 0) { return {{start, count, 1}}; }

void Check(const ShardCase& c) {
  SCOPED_TRACE(c.ToString());
  const ShardInputs inputs(c);
  EXPECT_EQ(CheckShard(c, inputs, ComputeShard(c, inputs, false)), "");
}

// Documents of random lengths over [0, length), some ids twice and some padding.
Segments RandomSegments(Random& random, int64_t length) {
  std::vector<int32_t> ids;
  while (static_cast<int64_t>(ids.size()) < length) {
    const auto id = static_cast<int32_t>(random.Below(7)) - 1;
    ids.insert(ids.end(), 1 + random.Below(200), id);
  }
  ids.resize(length);
  return ToSegments(ids, 0);
}

std::shared_ptr<const SegmentMap> RandomDocuments(Random& random, int64_t batch, int64_t length) {
  std::vector<Segments> documents;
  for (int64_t b = 0; b < batch; ++b) documents.push_back(RandomSegments(random, length));
  return std::make_shared<SegmentMap>(documents, documents);
}

std::shared_ptr<const std::vector<MaskSlice>> RandomSlices(Random& random, int64_t heads,
                                                           int64_t length) {
  auto slices = std::make_shared<std::vector<MaskSlice>>();
  const auto range = [&] {
    const auto a = static_cast<int64_t>(random.Below(length));
    const auto b = static_cast<int64_t>(random.Below(length));
    return std::pair{std::min(a, b), std::max(a, b) + 1};
  };
  for (int i = 0; i < 5; ++i) {
    const auto [q_begin, q_end] = range();
    const auto [k_begin, k_end] = range();
    MaskSlice slice{{}, q_begin, q_end, k_begin, k_end, static_cast<SliceKind>(random.Below(4))};
    if (random.Below(2) == 0) slice.head = static_cast<int64_t>(random.Below(heads));
    slices->push_back(slice);
  }
  return slices;
}

// Queries and keys in several runs and blocks, enough of them for products in bf16.
ShardCase Large(DType dtype) {
  ShardCase c;
  c.batch = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 24;
  c.value_dim = 40;
  c.dtype = dtype;
  c.queries = {{3, 150, 2}, {320, 70, 1}};
  c.key_blocks = {{{0, 203, 1}}, {{203, 99, 2}, {420, 65, 1}}};
  return c;
}
constexpr int64_t kLargeEnd = 520;  // past every position

TEST(ForwardOptions, ValuesOfAnyLength) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [head_dim, value_dim] :
         {std::pair{1, 256}, {256, 1}, {40, 17}, {17, 40}, {64, 65}, {128, 64}}) {
      ShardCase c = Large(dtype);
      c.head_dim = head_dim;
      c.value_dim = value_dim;
      c.options.mask.causal = true;
      Check(c);
    }
  }
}

TEST(ForwardOptions, EachByItself) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Random random(11, 1);
    const auto check = [&](const auto& set) {
      ShardCase c = Large(dtype);
      set(c);
      Check(c);
    };
    check([](ShardCase& c) { c.options.mask.window_left = 37; });
    check([](ShardCase& c) {
      c.options.mask.window_left = 5;
      c.options.mask.window_right = 90;
    });
    check([](ShardCase& c) { c.options.mask.causal_block = 50; });
    check([&](ShardCase& c) {
      c.options.mask.segments = RandomDocuments(random, c.batch, kLargeEnd);
    });
    check([&](ShardCase& c) { c.options.mask.slices = RandomSlices(random, c.heads, kLargeEnd); });
    check([](ShardCase& c) { c.options.mask.slices = std::make_shared<std::vector<MaskSlice>>(); });
    check([](ShardCase& c) { c.options.softcap = 0.7; });
    check([](ShardCase& c) { c.options.alibi_slopes = {0.5f, 0.01f, 0.0f, -0.02f}; });
    check([](ShardCase& c) { c.options.dropout = {.probability = 0.3, .seed = 5}; });
    check([](ShardCase& c) { c.sinks = true; });
    for (int axes = 0; axes < 8; ++axes) {
      check([&](ShardCase& c) {
        c.bias = std::array{(axes & 1) != 0, (axes & 2) != 0, (axes & 4) != 0};
      });
    }
  }
}

TEST(ForwardOptions, AnyTogether) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed, 3);
    const auto one_in = [&](uint64_t n) { return random.Below(n) == 0; };
    ShardCase c = Large(one_in(2) ? DType::kF32 : DType::kBF16);
    c.seed = seed;
    c.threads = 1 + static_cast<int>(random.Below(3));
    c.head_dim = 1 + static_cast<int64_t>(random.Below(40));
    c.value_dim = 1 + static_cast<int64_t>(random.Below(70));
    Mask& mask = c.options.mask;
    mask.causal = one_in(2);
    if (one_in(3)) mask.window_left = static_cast<int64_t>(random.Below(300));
    if (one_in(3)) mask.window_right = static_cast<int64_t>(random.Below(300));
    if (one_in(4)) mask.causal_block = 1 + static_cast<int64_t>(random.Below(90));
    if (one_in(3)) mask.segments = RandomDocuments(random, c.batch, kLargeEnd);
    if (one_in(3)) mask.slices = RandomSlices(random, c.heads, kLargeEnd);
    if (one_in(2)) c.options.scale = random.Normal();
    if (one_in(3)) c.options.softcap = std::exp(random.Normal());
    if (one_in(3)) {
      for (int64_t h = 0; h < c.heads; ++h) {
        c.options.alibi_slopes.push_back(0.03f * random.Normal());
      }
    }
    if (one_in(3)) c.options.dropout = {.probability = random.Uniform(), .seed = seed};
    if (one_in(2)) c.bias = std::array{one_in(2), one_in(2), one_in(2)};
    c.sinks = one_in(3);
    Check(c);
  }
}

// Steps of a tile that see nothing between steps that do.
TEST(ForwardOptions, GapsWithinATile) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c = Large(dtype);
    c.queries = Contiguous(250);
    c.key_blocks = {Contiguous(384)};
    auto slices = std::make_shared<std::vector<MaskSlice>>();
    for (const auto& [begin, end] : {std::pair{3, 60}, {171, 176}, {290, 383}}) {
      slices->push_back({{}, 0, 250, begin, end, SliceKind::kFull});
    }
    c.options.mask.slices = slices;
    Check(c);
  }
}

// Tiles that are counted are those with a visible pair, whatever the mask and the number of
// threads.
TEST(ForwardOptions, CountsTheTilesThatAreSeen) {
  constexpr int64_t kLength = 2000;
  Random random(4, 4);
  std::vector<Mask> masks(6);
  masks[0].causal = true;
  masks[1].window_left = 100;
  masks[1].window_right = 0;
  masks[2].segments = RandomDocuments(random, 2, kLength);
  masks[3].slices = RandomSlices(random, 2, kLength);
  masks[4].causal_block = 300;
  masks[5].segments = RandomDocuments(random, 2, kLength);
  masks[5].causal = true;
  for (const Mask& mask : masks) {
    for (const int threads : {1, 3}) {
      ShardCase c;
      c.batch = 2;
      c.heads = 2;
      c.head_dim = 1;
      c.threads = threads;
      c.options.mask = mask;
      c.queries = {{0, 500, 2}, {1000, 1000, 1}};
      c.key_blocks = {{{900, 1100, 1}, {0, 450, 2}}};
      const ShardInputs inputs(c);
      const AttentionStats stats = ComputeShard(c, inputs, false).forward;
      int64_t expected = 0;
      const auto sees_any = [&](const MaskPlane& plane, const RowBlock& queries,
                                const RowBlock& keys) {
        for (int64_t i = 0; i < queries.count(); ++i) {
          for (int64_t j = 0; j < keys.count(); ++j) {
            if (Sees(plane, queries.positions[i], keys.positions[j])) return true;
          }
        }
        return false;
      };
      for (const RowBlock& queries : CutIntoBlocks(c.queries, stats.tile_queries)) {
        for (const RowBlock& keys : CutIntoBlocks(c.keys(), stats.tile_keys)) {
          for (int64_t plane = 0; plane < 4; ++plane) {
            if (sees_any({mask, plane / 2, plane % 2}, queries, keys)) ++expected;
          }
        }
      }
      EXPECT_EQ(stats.tiles, expected);
    }
  }
}

// The same bits with any number of threads, and again.
TEST(ForwardOptions, SameBits) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ShardCase c = Large(dtype);
    Random random(8, 1);
    c.options.mask.segments = RandomDocuments(random, c.batch, kLargeEnd);
    c.options.softcap = 2;
    c.options.alibi_slopes = {0.1f, 0.2f, -0.9f, -2.0f};
    c.options.dropout = {.probability = 0.2, .seed = 1};
    c.bias = std::array{true, true, true};
    c.sinks = true;
    const ShardInputs inputs(c);
    const ShardResults first = ComputeShard(c, inputs, false);
    for (const int threads : {1, 2, 3}) {
      c.threads = threads;
      const ShardResults again = ComputeShard(c, inputs, false);
      EXPECT_EQ(first.output, again.output);
      EXPECT_EQ(first.logsumexp, again.logsumexp);
    }
  }
}

// Which elements of row-major results are NaN, by row of `width`.
std::vector<bool> NaNRows(const std::vector<double>& values, int64_t width) {
  std::vector<bool> rows(values.size() / width, false);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) rows[i / width] = true;
  }
  return rows;
}

// A small square of one head, and a larger one for products in bf16.
std::vector<ShardCase> Squares() {
  std::vector<ShardCase> squares;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t length : {50, dtype == DType::kBF16 ? 900 : 450}) {
      ShardCase c;
      c.dtype = dtype;
      c.head_dim = 24;
      c.value_dim = 20;
      c.queries = Contiguous(length);
      c.key_blocks = {Contiguous(length)};
      c.bias = std::array{false, false, true};
      squares.push_back(c);
    }
  }
  return squares;
}

void Poison(const TensorView& view, int64_t row, float value) {
  DispatchDType(view.dtype, [&]<class T>(T) { view.at<T>(0, row, 0)[1] = T(value); });
}

TEST(ForwardOptions, MinusInfinityInTheBiasHides) {
  for (ShardCase c : Squares()) {
    SCOPED_TRACE(c.ToString());
    for (const bool sinks : {false, true}) {
      c.sinks = sinks;
      const ShardInputs inputs(c);
      for (int64_t j = 0; j < c.q_len(); ++j) *inputs.bias->at<float>(0, 0, 7, j) = -kInfinity;
      for (int64_t i = 0; i < c.q_len(); i += 3) *inputs.bias->at<float>(0, 0, i, 40) = -kInfinity;
      const ShardResults plain = ComputeShard(c, inputs, false);
      EXPECT_EQ(CheckShard(c, inputs, plain), "");
      // A row that sees nothing.
      EXPECT_EQ(plain.output[7 * 20 + 3], 0.0);
      EXPECT_EQ(plain.logsumexp[7], sinks ? *inputs.sinks->at<float>(0) : -kInfinity);
      // Hidden by the bias as by a mask: not even NaN arrives.
      Poison(inputs.value, 40, std::nanf(""));
      const auto rows = NaNRows(ComputeShard(c, inputs, false).output, 20);
      for (int64_t i = 0; i < c.q_len(); ++i) EXPECT_EQ(rows[i], i % 3 != 0 && i != 7) << i;
    }
  }
}

TEST(ForwardOptions, InfinityAndNaNInTheBiasStayInTheirRow) {
  for (const float value : {kInfinity, std::nanf("")}) {
    for (const ShardCase& c : Squares()) {
      SCOPED_TRACE(c.ToString());
      const ShardInputs inputs(c);
      *inputs.bias->at<float>(0, 0, 11, 45) = value;
      const ShardResults results = ComputeShard(c, inputs, false);
      const auto rows = NaNRows(results.output, 20);
      for (int64_t i = 0; i < c.q_len(); ++i) {
        EXPECT_EQ(rows[i], i == 11) << i;
        EXPECT_EQ(std::isnan(results.logsumexp[i]), i == 11) << i;
      }
    }
  }
}

// A dropped pair does not touch its value; a key's NaN reaches the row sum all the same.
TEST(ForwardOptions, DroppedValuesStayOut) {
  for (ShardCase c : Squares()) {
    SCOPED_TRACE(c.ToString());
    c.bias.reset();
    c.options.dropout = {.probability = 0.5, .seed = 3};
    const ShardInputs inputs(c);
    Poison(inputs.value, 45, std::nanf(""));
    const auto rows = NaNRows(ComputeShard(c, inputs, false).output, 20);
    for (int64_t i = 0; i < c.q_len(); ++i) {
      EXPECT_EQ(rows[i], Keeps(c.options.dropout, 0, 0, i, 45)) << i;
    }
    Poison(inputs.key, 45, std::nanf(""));
    const auto key_rows = NaNRows(ComputeShard(c, inputs, false).output, 20);
    EXPECT_EQ(std::count(key_rows.begin(), key_rows.end(), true), c.q_len());
  }
}

// Sinks far from the scores, on either side.
TEST(ForwardOptions, SinksOfAnySize) {
  for (const float sink : {-kInfinity, -1e4f, 9.0f, 1e4f}) {
    for (ShardCase c : Squares()) {
      c.sinks = true;
      const ShardInputs inputs(c);
      *inputs.sinks->at<float>(0) = sink;
      SCOPED_TRACE(sink);
      EXPECT_EQ(CheckShard(c, inputs, ComputeShard(c, inputs, false)), "");
    }
  }
}

// At a window's edge a query starts with a key or two, whose scores may be far below the others':
// values as large as the contract allows stay finite all the same.
TEST(ForwardOptions, LargeValuesInAWindow) {
  ShardCase c;
  c.queries = {{0, 2048, 1}};
  c.key_blocks = {c.queries};
  c.options.mask.window_left = 256;
  c.options.mask.window_right = 0;
  const ShardInputs inputs(c);
  for (int64_t row = 0; row < c.q_len(); ++row) {
    for (int64_t i = 0; i < c.head_dim; ++i) {
      inputs.query.at<float>(0, row, 0)[i] *= 3;
      inputs.value.at<float>(0, row, 0)[i] = i % 2 == 0 ? -0x1p+116f : 0x1p+116f;
    }
  }
  EXPECT_EQ(CheckShard(c, inputs, ComputeShard(c, inputs, false)), "");
}

// Scores that grow with the keys' position, so that references have to move within rows that would
// be attended at once: whole tiles, and those beside a diagonal.
TEST(ForwardOptions, ReferencesMoveWithinATile) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t stride : {1, 2}) {
      ShardCase c{.heads = 2, .kv_heads = 1, .head_dim = 32, .dtype = dtype};
      c.queries = {{900 - 2 * 391, 391, 2}};
      c.key_blocks = {{{0, 801, stride}}};
      c.options.mask.causal = true;
      const ShardInputs inputs(c);
      for (int64_t row = 0; row < c.q_len(); ++row) {
        for (int64_t head = 0; head < c.heads; ++head) {
          DispatchDType(dtype, [&]<class T>(T) {
            std::fill_n(inputs.query.at<T>(0, row, head), c.head_dim, T(1.0f));
          });
        }
      }
      for (int64_t row = 0; row < 801; ++row) {
        DispatchDType(dtype, [&]<class T>(T) {
          T* key = inputs.key.at<T>(0, row, 0);
          for (int64_t i = 0; i < c.head_dim; ++i) {
            key[i] = T(static_cast<float>(key[i]) + 0.01f * static_cast<float>(row));
          }
        });
      }
      SCOPED_TRACE(c.ToString());
      EXPECT_EQ(CheckShard(c, inputs, ComputeShard(c, inputs, false)), "");
    }
  }
}

// Scores saturate at the cap, infinite ones too.
TEST(ForwardOptions, SoftcapOfLargeScores) {
  for (const ShardCase& square : Squares()) {
    for (const double cap : {0.01, 5.0, 30.0}) {
      ShardCase c = square;
      c.options.softcap = cap;
      c.options.scale = 1000.0;
      const ShardInputs inputs(c);
      SCOPED_TRACE(c.ToString());
      EXPECT_EQ(CheckShard(c, inputs, ComputeShard(c, inputs, false)), "");
    }
  }
}

}  // namespace
}  // namespace ringwise
