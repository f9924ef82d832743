#include "ring/least_tiles.h"

#include <gtest/gtest.h>

#include <memory>

#include "ringwise/layout.h"

namespace ringwise {
namespace {

TEST(LeastTiles, OfCausalAttentionAreThoseOnAndBelowTheDiagonal) {
  const std::vector<Positions> whole = {{{0, 64, 1}}};
  // 8 x 4 tiles of 8 x 16: queries 0 to 15 see the first tile of keys, 16 to 31 two, and so on.
  EXPECT_EQ(LeastTiles({.causal = true}, 1, 1, whole, whole, 8, 16), 2 * (1 + 2 + 3 + 4));
  EXPECT_EQ(LeastTiles({.causal = true}, 3, 5, whole, whole, 8, 16), 15 * 20);
  EXPECT_EQ(LeastTiles({}, 1, 1, whole, whole, 8, 16), 32);
  EXPECT_EQ(LeastTiles({}, 1, 1, whole, whole, 7, 63), 20);  // with remainders
  EXPECT_EQ(LeastTiles({}, 1, 1, whole, {{}}, 8, 16), 0);
  EXPECT_EQ(LeastTiles({}, 1, 1, whole, whole, 0, 0), 0);
}

TEST(LeastTiles, AreCutWithinEachRanksRuns) {
  std::vector<Positions> zigzag, striped;
  for (int rank = 0; rank < 2; ++rank) {
    zigzag.push_back(ShardPositions(Layout::kZigzag, 64, 2, rank));
    striped.push_back(ShardPositions(Layout::kStriped, 64, 2, rank));
  }
  // Rank 0's runs [0, 16) and [48, 64), rank 1's [16, 48).
  EXPECT_EQ(LeastTiles({.causal = true}, 1, 1, zigzag, zigzag, 16, 32), 1 + 2 + 2 + 3);
  // Every tile of 32 stripes reaches over the whole sequence.
  EXPECT_EQ(LeastTiles({.causal = true}, 1, 1, striped, striped, 32, 32), 4);
}

TEST(LeastTiles, KnowMasksThatDifferByHead) {
  const auto slices = std::make_shared<std::vector<MaskSlice>>(
      std::vector<MaskSlice>{{1, 0, 8, 0, 8, SliceKind::kFull}, {2, 0, 64, 60, 64}});
  const std::vector<Positions> whole = {{{0, 64, 1}}};
  EXPECT_EQ(LeastTiles({.slices = slices}, 2, 3, whole, whole, 8, 16), 2 * (0 + 1 + 8));
}

}  // namespace
}  // namespace ringwise
