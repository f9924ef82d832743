#include "ringwise/layout.h"

#include <gtest/gtest.h>

#include <vector>

#include "ring/attention_work.h"
#include "ring/least_tiles.h"
#include "ringwise/error.h"
#include "ringwise/mask.h"

namespace ringwise {
namespace {

TEST(Layout, EveryPositionIsOnOneRankInAscendingRuns) {
  for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
    for (const int64_t seq : {0, 1, 2, 5, 7, 8, 16, 17, 100}) {
      for (int ranks = 1; ranks <= 9; ++ranks) {
        std::vector<int> seen(seq, 0);
        int64_t shortest = seq;
        int64_t longest = 0;
        for (int rank = 0; rank < ranks; ++rank) {
          const Positions positions = ShardPositions(layout, seq, ranks, rank, 30);
          int64_t previous = -1;
          for (int64_t i = 0; i < Count(positions); ++i) {
            const int64_t position = At(positions, i);
            EXPECT_GT(position, previous);
            previous = position;
            ASSERT_GE(position, 30);
            ASSERT_LT(position, 30 + seq);
            ++seen[position - 30];
          }
          shortest = std::min(shortest, Count(positions));
          longest = std::max(longest, Count(positions));
        }
        EXPECT_EQ(seen, std::vector<int>(seq, 1));
        EXPECT_LE(longest - shortest, layout == Layout::kZigzag ? 2 : 1);
      }
    }
  }
}

TEST(Layout, IsWhatItsNameSays) {
  EXPECT_EQ(ShardPositions(Layout::kContiguous, 12, 3, 1), (Positions{{4, 4, 1}}));
  EXPECT_EQ(ShardPositions(Layout::kStriped, 11, 3, 2), (Positions{{2, 3, 3}}));
  EXPECT_EQ(ShardPositions(Layout::kZigzag, 12, 3, 0), (Positions{{0, 2, 1}, {10, 2, 1}}));
  EXPECT_EQ(ShardPositions(Layout::kZigzag, 12, 3, 2), (Positions{{4, 4, 1}}));
  EXPECT_EQ(ParseLayout("zigzag"), Layout::kZigzag);
  EXPECT_THROW(ParseLayout("ring"), UsageError);
  for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
    EXPECT_EQ(ParseLayout(Name(layout)), layout);
    EXPECT_EQ(ShardPositions(layout, 9, 1, 0), (Positions{{0, 9, 1}}));
  }
}

TEST(AttentionWork, StripedAndZigzagBalanceCausalAttention) {
  const auto pairs = [](Layout layout) {
    std::vector<double> by_rank;
    for (int rank = 0; rank < 4; ++rank) {
      const Positions queries = ShardPositions(layout, 4096, 4, rank);
      const int64_t visible = VisiblePairs({.causal = true}, 3, 2, queries, {{0, 4096, 1}});
      by_rank.push_back(static_cast<double>(visible) / 6);
    }
    return by_rank;
  };
  const std::vector<double> contiguous = pairs(Layout::kContiguous);
  EXPECT_EQ(contiguous[0], 1024 * 1025 / 2);
  EXPECT_EQ(contiguous[3], 1024 * 1025 / 2 + 3 * 1024 * 1024);
  EXPECT_NEAR(LargestOverMean(contiguous), 1.75, 0.01);
  EXPECT_LT(LargestOverMean(pairs(Layout::kStriped)), 1.001);
  EXPECT_LT(LargestOverMean(pairs(Layout::kZigzag)), 1.001);
  EXPECT_EQ(LargestOverMean(std::vector<double>{0, 0}), 1.0);
}

// The bound of 1.02 at 65536 on 8 ranks, of the pairs and of the tiles that hold them, whose empty
// corners are computed too.
TEST(AttentionWork, IsEvenOnEightRanks) {
  constexpr int kRanks = 8;
  constexpr int64_t kLength = 65536;
  const Mask causal{.causal = true};
  for (const Layout layout : {Layout::kStriped, Layout::kZigzag}) {
    std::vector<Positions> shards;
    for (int rank = 0; rank < kRanks; ++rank) {
      shards.push_back(ShardPositions(layout, kLength, kRanks, rank));
    }
    std::vector<double> pairs, tiles;
    for (const Positions& queries : shards) {
      pairs.push_back(static_cast<double>(VisiblePairs(causal, 1, 1, queries, {{0, kLength, 1}})));
      tiles.push_back(static_cast<double>(LeastTiles(causal, 1, 1, {queries}, shards, 128, 384)));
    }
    EXPECT_LE(LargestOverMean(pairs), 1.02) << Name(layout);
    EXPECT_LE(LargestOverMean(tiles), 1.02) << Name(layout);
  }
}

}  // namespace
}  // namespace ringwise
