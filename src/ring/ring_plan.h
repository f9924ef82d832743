#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "attention/shard_attention.h"
#include "ringwise/mask.h"
#include "ringwise/positions.h"
#include "ringwise/thread_team.h"

namespace ringwise {

// A call as all ranks know it.
struct RingCall {
  const Mask& mask;
  int64_t batch = 1;
  int64_t heads = 1;                              // of query
  const std::vector<Positions>& query_positions;  // by rank
  const std::vector<Positions>& key_positions;
};

// How finely shards are cut into blocks. Every block lies in one run of positions and begins and
// ends at a multiple of `unit` rows of it, or with it. Blocks are cut shorter than need be so that
// a gradient is on its way while the next is made, and few are held: each at most one part of
// `parts` of the shard, but no shorter than `least_rows` without need.
struct BlockCut {
  int64_t unit = kBlockUnit;
  int64_t parts = 1;
  int64_t least_rows = 4 * kBlockUnit;
};

// What travels, and where to: a function of the mask and of all ranks' positions, the same on every
// rank. It is written for keys that travel to queries, and is the same for queries to keys.
//
// The rows of a shard that the same other ranks need make a block; rows that none needs stay at
// home. A block goes from rank to rank, a hop a step, to the last that needs it and not one
// further: to the next ranks, to the previous ones, or both ways, whichever sends the fewest bytes.
// Its gradient starts at the first rank that adds to it, moves along with the block and goes home
// from the last; what its own rank adds never leaves.
class RingPlan {
 public:
  // A block on its way in one direction.
  struct Route {
    int origin = 0;
    int block = 0;  // of the origin's, in order
    Range rows;     // of the origin's shard
    Positions positions;
    int direction = 1;       // 1: to the next ranks, -1: to the previous
    int first_use = 0;       // steps; at step s it is at rank origin + direction * s
    int last_use = 0;        // 1 <= first_use <= last_use
    std::vector<bool> uses;  // by step up to the last

    bool Moves(int step) const { return step < last_use; }
    // Whether its gradient leaves the rank of `step`: for the next one, or after the last for home.
    bool GradientLeaves(int step) const { return step >= first_use && step <= last_use; }
  };
  using BytesOf = std::function<TravelBytes(int64_t rows)>;

  // `bytes` are those of a block and of its gradient, which is 0 in forward. Where several ways
  // cost the same, keys go to the next ranks and queries to the previous, as causal masks have it.
  RingPlan(const RingCall& call, Travelling travelling, const BytesOf& bytes,
           const BlockCut& cut = {});

  int ring_size() const { return static_cast<int>(home_.size()); }
  int64_t length(int rank) const { return lengths_[rank]; }  // of the shard that travels
  int steps() const { return steps_; }                       // that a block is under way at most
  int blocks() const { return blocks_; }                     // of one shard at most
  // In order of origin, block and direction.
  const std::vector<Route>& routes() const { return routes_; }
  // The rows of a rank that stay at home, in order.
  const std::vector<Range>& RowsAtHome(int rank) const { return home_[rank]; }

  int RankAt(const Route& route, int step) const;
  // The step at which a route is at `rank`, which may be past its last.
  int StepAt(const Route& route, int rank) const;

  int64_t BytesSent(int rank) const;
  int64_t TotalBytes() const;  // of all ranks

 private:
  // Offsets from a rank to those that need rows of it: [1, ring_size).
  using Users = std::vector<bool>;
  struct Block {
    Range rows;  // of the shard
    Users users;
  };

  static std::vector<Block> FindBlocks(const RingCall& call, Travelling travelling, int rank,
                                       int64_t unit);
  void AddRoutes(int origin, int block, Range rows, const Positions& positions, const Users& users);

  Travelling travelling_;

  BytesOf bytes_;
  std::vector<Route> routes_;
  std::vector<std::vector<Range>> home_;  // by rank
  std::vector<int64_t> lengths_;          // likewise
  int steps_ = 0;
  int blocks_ = 0;
};

}  // namespace ringwise
