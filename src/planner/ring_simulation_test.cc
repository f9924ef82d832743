#include "ringwise/ring_simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "planner/ring_travel.h"
#include "ring/attention_work.h"
#include "ring/ring_plan.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kStriped, Layout::kZigzag};

RingProblem Even(int ranks, double square, double block_bytes, RingLink link) {
  const auto size = static_cast<size_t>(ranks);
  return {.block_bytes = block_bytes,
          .square_seconds = std::vector<double>(size, square),
          .visit_seconds = std::vector<double>(size, 0),
          .links = std::vector<RingLink>(size, link)};
}

TEST(RingSimulation, OneRankComputesAndWaitsForNothing) {
  for (const bool causal : {false, true}) {
    for (const Layout layout : kLayouts) {
      RingProblem problem = Even(1, 3.0, 100, {1, 1});
      problem.causal = causal;
      problem.layout = layout;
      problem.gradient_bytes = 100;
      problem.visit_seconds = {0};
      const RingTimeline timeline = SimulateRing(problem);
      EXPECT_DOUBLE_EQ(timeline.seconds, causal ? 1.5 : 3.0);
      EXPECT_DOUBLE_EQ(timeline.Efficiency(), 1);
    }
  }
}

// R squares, of which R - 1 hide a transfer or are hidden by it.
TEST(RingSimulation, FullMaskIsTheClosedForm) {
  for (const int ranks : {2, 3, 7, 64}) {
    for (const double transfer : {0.5, 2.0, 3.0}) {
      const double square = 2;
      const double delay = 0.25;
      RingProblem problem = Even(ranks, square, transfer * 1e6, {1e6, delay});
      const RingTimeline timeline = SimulateRing(problem);
      const double step = std::max(square, transfer + delay);
      EXPECT_NEAR(timeline.seconds, (ranks - 1) * step + square, 1e-9 * ranks) << ranks;
      EXPECT_NEAR(timeline.Efficiency(), ranks * square / timeline.seconds, 1e-9);
    }
  }
}

// In backward the last gradient goes home after all else, and while it is on its way the block is
// not: two steps of both at most.
TEST(RingSimulation, BackwardSendsGradientsAfterBlocks) {
  const int ranks = 4;
  RingProblem problem = Even(ranks, 1, 1e6, {1e6, 0});
  problem.gradient_bytes = 2e6;
  // Steps 0 and 1: a block; 2: block and gradient; 3: the gradient; then a quarter of the last.
  EXPECT_NEAR(SimulateRing(problem).seconds, 1 + 1 + 3 + 2 + 0.5, 1e-9);
}

// The last rank of contiguous shards under a causal mask sees everything and sets the pace; the
// balanced layouts take half of it.
TEST(RingSimulation, CausalLayoutsOnAFastLink) {
  const int ranks = 16;
  RingProblem problem = Even(ranks, 1, 1, {1e12, 0});
  problem.causal = true;
  const RingTimeline contiguous = SimulateRing(problem);
  EXPECT_NEAR(contiguous.seconds, ranks - 0.5, 1e-6);
  EXPECT_NEAR(contiguous.Efficiency(), ranks / 2.0 / (ranks - 0.5), 1e-6);
  problem.layout = Layout::kStriped;
  EXPECT_NEAR(SimulateRing(problem).seconds, ranks / 2.0, 1e-6);
  EXPECT_NEAR(SimulateRing(problem).Efficiency(), 1, 1e-6);
  problem.layout = Layout::kZigzag;
  for (const double seconds : SimulateRing(problem).compute_seconds) {
    EXPECT_NEAR(seconds, ranks / 2.0, 1e-9);
  }
}

TEST(RingSimulation, TheSlowestRankAndLinkSetThePace) {
  const int ranks = 5;
  RingProblem problem = Even(ranks, 1, 1e6, {1e9, 0});
  problem.square_seconds[2] = 4;
  EXPECT_NEAR(SimulateRing(problem).seconds, 4 * ranks, 1e-6);
  problem.square_seconds[2] = 1;
  problem.links[3] = {1e6 / 3, 0};  // 3 seconds a block; its end waits for the last rank's step
  const double seconds = SimulateRing(problem).seconds;
  EXPECT_NEAR(seconds, 3 * (ranks - 1) + 1, 1e-6);
}

TEST(RingSimulation, MoreOfAnythingTakesLonger) {
  for (const Layout layout : kLayouts) {
    for (const bool causal : {false, true}) {
      for (const double gradient : {0.0, 3e5}) {
        RingProblem problem = Even(9, 1, 1e6, {1e6, 0.1});
        problem.layout = layout;
        problem.causal = causal;
        problem.gradient_bytes = gradient;
        const double before = SimulateRing(problem).seconds;
        RingProblem other = problem;
        other.links.assign(9, {0.5e6, 0.1});
        EXPECT_GT(SimulateRing(other).seconds, before);
        other = problem;
        other.links.assign(9, {1e6, 0.2});
        EXPECT_GT(SimulateRing(other).seconds, before);
        other = problem;
        other.square_seconds.assign(9, 3);
        EXPECT_GT(SimulateRing(other).seconds, before);
        other = problem;
        other.visit_seconds.assign(9, 3);
        EXPECT_GT(SimulateRing(other).seconds, before);
      }
    }
  }
}

TEST(RingSimulation, FourThousandRanks) {
  const int ranks = 4096;
  RingProblem problem = Even(ranks, 1, 1, {1e9, 0});
  problem.causal = true;
  problem.layout = Layout::kZigzag;
  const RingTimeline timeline = SimulateRing(problem);
  EXPECT_NEAR(timeline.LongestCompute(), ranks / 2.0, 1e-6);
  EXPECT_GT(timeline.Efficiency(), 0.5);
}

TEST(RingSimulation, RefusesWhatIsNoRing) {
  EXPECT_THROW(SimulateRing({}), UsageError);
  RingProblem problem = Even(3, 1, 1, {1, 0});
  problem.visit_seconds.pop_back();
  EXPECT_THROW(SimulateRing(problem), UsageError);
  problem = Even(3, 1, 1, {0, 0});
  EXPECT_THROW(SimulateRing(problem), UsageError);
  problem = Even(3, std::nan(""), 1, {1, 0});
  EXPECT_THROW(SimulateRing(problem), UsageError);
}

std::vector<Positions> Shards(Layout layout, int ranks, int64_t rows) {
  std::vector<Positions> shards;
  shards.reserve(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) shards.push_back(ShardPositions(layout, rows * ranks, ranks, r));
  return shards;
}

// What the simulation sends is what the ring's own plan sends, rank by rank.
TEST(RingTravel, SendsWhatTheRingsPlanSends) {
  const int64_t rows = 4 * kBlockUnit;
  for (const Layout layout : kLayouts) {
    for (const bool causal : {false, true}) {
      for (const bool queries : {false, true}) {
        for (const int ranks : {1, 2, 3, 4, 7, 8}) {
          const std::vector<Positions> shards = Shards(layout, ranks, rows);
          const Mask mask{.causal = causal};
          const RingPlan plan({.mask = mask, .query_positions = shards, .key_positions = shards},
                              queries ? Travelling::kQueries : Travelling::kKeys,
                              [](int64_t count) { return TravelBytes{.block = count}; });
          std::vector<double> sent(static_cast<size_t>(ranks));
          for (const Travel& travel : TravelsOf(layout, causal, queries, ranks)) {
            for (int step = 0; step < travel.hops; ++step) {
              const int rank = (travel.origin + travel.direction * step + ranks) % ranks;
              sent[rank] += travel.share * static_cast<double>(rows);
            }
          }
          for (int r = 0; r < ranks; ++r) {
            EXPECT_EQ(sent[r], static_cast<double>(plan.BytesSent(r)))
                << Name(layout) << ", causal " << causal << ", queries " << queries << ", rank "
                << r << " of " << ranks;
          }
        }
      }
    }
  }
}

// What it computes is what the mask lets queries see, but for the diagonal's half rows.
TEST(RingTravel, ComputesWhatTheMaskShows) {
  const int64_t rows = 512;
  for (const Layout layout : kLayouts) {
    for (const bool queries : {false, true}) {
      for (const int ranks : {1, 2, 5, 8}) {
        const std::vector<Positions> shards = Shards(layout, ranks, rows);
        // By [origin, rank]: of a square.
        std::vector<double> pairs(static_cast<size_t>(ranks * ranks));
        for (const Travel& travel : TravelsOf(layout, true, queries, ranks)) {
          for (int step = 0; step <= travel.hops; ++step) {
            const int rank = (travel.origin + travel.direction * step + ranks) % ranks;
            pairs[travel.origin * ranks + rank] +=
                WorkOf(layout, true, queries, travel, rank).pairs;
          }
        }
        for (int origin = 0; origin < ranks; ++origin) {
          for (int rank = 0; rank < ranks; ++rank) {
            const Positions& seeing = shards[queries ? origin : rank];
            const Positions& seen = shards[queries ? rank : origin];
            const auto visible =
                static_cast<double>(VisiblePairs({.causal = true}, 1, 1, seeing, seen));
            EXPECT_NEAR(pairs[origin * ranks + rank], visible / static_cast<double>(rows * rows),
                        1.0 / static_cast<double>(rows))
                << Name(layout) << ", queries " << queries << ", " << origin << " at " << rank
                << " of " << ranks;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
