#pragma once

#include <vector>

#include "ringwise/layout.h"

// What travels around the ring and what is computed with it, as shares of a shard: RingPlan's
// routes for shards that are as long on every rank, without any position.
namespace ringwise {

// One run of a shard's rows on its way from `origin`. Of a zigzag shard under the causal mask the
// two runs go each their own way; the one that every rank sees is `major`.
struct Travel {
  int origin = 0;
  int direction = 1;  // 1: to the next ranks, -1: to the previous
  int hops = 0;
  double share = 1;  // of the shard's rows
  bool major = true;
};

std::vector<Travel> TravelsOf(Layout layout, bool causal, bool queries_travel, int ranks);

// What `rank` computes with it.
struct TravelWork {
  double pairs = 0;  // visible, of the square of two shards
  double rows = 0;   // of the shard at home that meet it
};
TravelWork WorkOf(Layout layout, bool causal, bool queries_travel, const Travel& travel, int rank);

}  // namespace ringwise
