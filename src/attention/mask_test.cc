#include "ringwise/mask.h"

#include <gtest/gtest.h>

#include "ringwise/random.h"

namespace ringwise {
namespace {

PositionRun RandomRun(Random& random) {
  return {static_cast<int64_t>(random.Below(40)) - 10, static_cast<int64_t>(random.Below(12)),
          1 + static_cast<int64_t>(random.Below(5))};
}

// Every function against the definition, pair by pair.
TEST(Mask, AgreesWithTheDefinition) {
  Random random(1, 0);
  int kinds[3] = {0, 0, 0};
  for (int repeat = 0; repeat < 20000; ++repeat) {
    const Mask mask{.causal = random.Below(4) != 0};
    const PositionRun queries = RandomRun(random);
    const PositionRun keys = RandomRun(random);
    SCOPED_TRACE(testing::Message() << "queries " << queries.start << " " << queries.count << " "
                                    << queries.stride << " keys " << keys.start << " " << keys.count
                                    << " " << keys.stride << " causal " << mask.causal);
    int64_t visible = 0;
    for (int64_t j = 0; j < keys.count; ++j) {
      const VisibleQueries range = QueriesThatSee(mask, queries, keys[j]);
      EXPECT_LE(range.begin, range.end);
      for (int64_t i = 0; i < queries.count; ++i) {
        const bool sees = Sees(mask, queries[i], keys[j]);
        EXPECT_EQ(sees, i >= range.begin && i < range.end) << i << " " << j;
        visible += sees ? 1 : 0;
      }
    }
    const TileKind expected = visible == 0                            ? TileKind::kEmpty
                              : visible == queries.count * keys.count ? TileKind::kFull
                                                                      : TileKind::kPartial;
    ASSERT_EQ(Classify(mask, queries, keys), expected);
    ASSERT_EQ(CountVisible(mask, {queries}, {keys}), visible);
    ++kinds[static_cast<int>(expected)];
  }
  for (const int count : kinds) EXPECT_GT(count, 1000);
}

TEST(Mask, CountsOverSeveralRunsAndLargeOnes) {
  const Mask causal{.causal = true};
  const Positions queries = {{0, 3, 2}, {10, 0, 1}, {20, 4, 1}};
  const Positions keys = {{1, 5, 3}, {21, 2, 1}};
  int64_t visible = 0;
  for (int64_t i = 0; i < Count(queries); ++i) {
    for (int64_t j = 0; j < Count(keys); ++j) {
      visible += Sees(causal, At(queries, i), At(keys, j)) ? 1 : 0;
    }
  }
  EXPECT_EQ(CountVisible(causal, queries, keys), visible);
  const int64_t million = 1 << 20;
  EXPECT_EQ(CountVisible(causal, {{0, million, 1}}, {{0, million, 1}}),
            million * (million + 1) / 2);
  // Striped over 8 ranks: the shards' work adds up to the whole.
  int64_t sum = 0;
  for (int q = 0; q < 8; ++q) {
    for (int k = 0; k < 8; ++k) {
      sum += CountVisible(causal, {{q, million / 8, 8}}, {{k, million / 8, 8}});
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
