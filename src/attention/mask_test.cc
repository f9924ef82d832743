#include "ringwise/mask.h"

#include <gtest/gtest.h>

#include "ringwise/random.h"

namespace ringwise {
namespace {

PositionRun RandomRun(Random& random) {
  return {static_cast<int64_t>(random.Below(40)) - 10, static_cast<int64_t>(random.Below(12)),
          1 + static_cast<int64_t>(random.Below(5))};
}

// Ids of 60 positions from -12 on: documents of up to 9 positions, some of which return, and
// padding.
Segments RandomSegments(Random& random) {
  std::vector<int32_t> ids;
  while (ids.size() < 60) {
    ids.insert(ids.end(), 1 + random.Below(9), static_cast<int32_t>(random.Below(5)) - 1);
  }
  return ToSegments(ids, -12);
}

std::vector<MaskSlice> RandomSlices(Random& random) {
  std::vector<MaskSlice> slices(random.Below(5));
  const auto range = [&](int64_t& begin, int64_t& end) {
    begin = static_cast<int64_t>(random.Below(40)) - 12;
    end = begin + static_cast<int64_t>(random.Below(30));
  };
  for (MaskSlice& slice : slices) {
    range(slice.q_begin, slice.q_end);
    range(slice.k_begin, slice.k_end);
    slice.kind = static_cast<SliceKind>(random.Below(4));
    if (random.Below(3) == 0) slice.head = static_cast<int64_t>(random.Below(2));
  }
  return slices;
}

Mask RandomMask(Random& random) {
  Mask mask{.causal = random.Below(3) == 0};
  if (random.Below(3) == 0) mask.window_left = static_cast<int64_t>(random.Below(12));
  if (random.Below(3) == 0) mask.window_right = static_cast<int64_t>(random.Below(12));
  if (random.Below(4) == 0) mask.causal_block = 1 + static_cast<int64_t>(random.Below(9));
  if (random.Below(4) == 0) {
    mask.segments =
        std::make_shared<SegmentMap>(std::vector{RandomSegments(random), RandomSegments(random)},
                                     std::vector{RandomSegments(random), RandomSegments(random)});
  }
  if (random.Below(4) == 0) {
    mask.slices = std::make_shared<std::vector<MaskSlice>>(RandomSlices(random));
  }
  return mask;
}

// Every function against the definition, pair by pair.
TEST(Mask, AgreesWithTheDefinition) {
  Random random(1, 0);
  int kinds[3] = {0, 0, 0};
  for (int repeat = 0; repeat < 40000; ++repeat) {
    SCOPED_TRACE(testing::Message() << "repeat " << repeat);
    const Mask mask = RandomMask(random);
    const MaskPlane plane{mask, static_cast<int64_t>(random.Below(2)),
                          static_cast<int64_t>(random.Below(3))};
    const PositionRun queries = RandomRun(random);
    const PositionRun keys = RandomRun(random);
    int64_t visible = 0;
    std::vector<uint64_t> bits(keys.count);
    VisibleBits(plane, queries, keys, bits);
    const KeyRange hull = HullOfVisible(plane, queries);
    for (int64_t j = 0; j < keys.count; ++j) {
      for (int64_t i = 0; i < queries.count; ++i) {
        const bool sees = Sees(plane, queries[i], keys[j]);
        ASSERT_EQ(sees, (bits[j] >> i & 1) != 0) << i << " " << j;
        ASSERT_TRUE(!sees || (hull.begin <= keys[j] && keys[j] < hull.end));
        visible += sees ? 1 : 0;
      }
      ASSERT_EQ(bits[j] >> queries.count, 0u);
    }
    const TileKind expected = visible == 0                            ? TileKind::kEmpty
                              : visible == queries.count * keys.count ? TileKind::kFull
                                                                      : TileKind::kPartial;
    ASSERT_EQ(Classify(plane, queries, keys), expected);
    ASSERT_EQ(CountVisible(plane, {queries}, {keys}), visible);
    ++kinds[static_cast<int>(expected)];
  }
  for (const int count : kinds) EXPECT_GT(count, 1000);
}

TEST(Mask, PlanesAreThoseThatDiffer) {
  EXPECT_EQ(DistinctPlanes({.causal = true}, 3, 4).size(), 1u);
  EXPECT_EQ(DistinctPlanes({.causal = true}, 3, 4)[0].second, 12);
  EXPECT_TRUE(DistinctPlanes({}, 0, 4).empty());
  Mask mask;
  mask.slices = std::make_shared<std::vector<MaskSlice>>(1, MaskSlice{.head = 2});
  EXPECT_EQ(DistinctPlanes(mask, 3, 4).size(), 4u);
  mask.segments = std::make_shared<SegmentMap>(std::vector<Segments>(3), std::vector<Segments>(3));
  const auto planes = DistinctPlanes(mask, 3, 4);
  ASSERT_EQ(planes.size(), 12u);
  EXPECT_EQ(planes[5].first.batch, 1);
  EXPECT_EQ(planes[5].first.head, 1);
  EXPECT_EQ(planes[5].second, 1);
}

TEST(Mask, CountsOverSeveralRunsAndLargeOnes) {
  const Mask causal{.causal = true};
  const Positions queries = {{0, 3, 2}, {10, 0, 1}, {20, 4, 1}};
  const Positions keys = {{1, 5, 3}, {21, 2, 1}};
  int64_t visible = 0;
  for (int64_t i = 0; i < Count(queries); ++i) {
    for (int64_t j = 0; j < Count(keys); ++j) {
      visible += Sees({causal}, At(queries, i), At(keys, j)) ? 1 : 0;
    }
  }
  EXPECT_EQ(CountVisible({causal}, queries, keys), visible);
  const int64_t million = 1 << 20;
  EXPECT_EQ(CountVisible({causal}, {{0, million, 1}}, {{0, million, 1}}),
            million * (million + 1) / 2);
  // Striped over 8 ranks: the shards' work adds up to the whole.
  int64_t sum = 0;
  for (int q = 0; q < 8; ++q) {
    for (int k = 0; k < 8; ++k) {
      sum += CountVisible({causal}, {{q, million / 8, 8}}, {{k, million / 8, 8}});
    }
  }
  EXPECT_EQ(sum, million * (million + 1) / 2);
}

TEST(Positions, CountAndAt) {
  const Positions positions = {{5, 2, 1}, {0, 0, 1}, {10, 3, 4}};
  EXPECT_EQ(Count(positions), 5);
  EXPECT_EQ(At(positions, 1), 6);
  EXPECT_EQ(At(positions, 2), 10);
  EXPECT_EQ(At(positions, 4), 18);
  EXPECT_EQ(Count({}), 0);
}

}  // namespace
}  // namespace ringwise
