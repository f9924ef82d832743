#pragma once

#include <vector>

#include "ringwise/layout.h"

namespace ringwise {

// A connection between neighbours of the ring, as fast each way.
struct RingLink {
  double bytes_per_second = 0;
  double delay = 0;  // seconds that a message takes beside its bytes
};

// One call of ring attention as the simulation sees it. A shard is a rank's part of the sequence,
// as long on every rank; the square is its queries times another shard's keys.
struct RingProblem {
  Layout layout = Layout::kContiguous;
  bool causal = false;
  bool queries_travel = false;         // else keys and values
  double block_bytes = 0;              // of a shard that travels
  double gradient_bytes = 0;           // that follows it in backward, once a hop; 0: forward
  std::vector<double> square_seconds;  // by rank: attention to a whole square
  std::vector<double> visit_seconds;   // by rank: what a shard costs a rank beside its pairs
  std::vector<RingLink> links;         // by rank: to the next one
};

struct RingTimeline {
  double seconds = 0;                   // until the last rank is done
  std::vector<double> compute_seconds;  // by rank, without waiting

  // The share of all ranks' time in which they compute.
  double Efficiency() const;
  double LongestCompute() const;
};

// Plays the ring schedule (src/ring/ring_schedule.h): at every step a rank posts what it hands on,
// computes with what is here and waits for its transfers. A transfer begins when both sides have
// posted it; the two directions of a link do not disturb each other. What travels where is what the
// ring's plan finds for the layout and mask: under the causal mask blocks go no further than they
// are seen, halves of zigzag shards each their own way. In backward a gradient leaves a step after
// its block was attended and goes home from the last rank, straight; of that last way a quarter is
// left when all ranks have computed, as shards are cut into four blocks.
//
// Any ring, in O(ranks^2): 4,096 ranks take a few tenths of a second. Throws UsageError: no rank,
// vectors of different lengths, a rate that is not above 0.
//
//   RingProblem problem{.block_bytes = 8e6, .square_seconds = {0.02, 0.02, 0.04},
//                       .visit_seconds = {0, 0, 0}, .links = {{1e9, 1e-5}, {1e9, 1e-5}, {1e9,
//                       1e-5}}};
//   SimulateRing(problem).Efficiency();  // the third rank is half as fast as the others
RingTimeline SimulateRing(const RingProblem& problem);

}  // namespace ringwise
