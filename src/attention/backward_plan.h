#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "ringwise/mask.h"
#include "ringwise/thread_team.h"

namespace ringwise {

// Where the keys lie that each query block may see, for every plane of a mask: what lets a walk
// over key tiles pass by the blocks that see nothing of a tile at the cost of two comparisons,
// however far apart documents or windows lie. 16 bytes a block and distinct plane.
class BlockHulls {
 public:
  BlockHulls(ThreadTeam& team, const Mask& mask, const AttentionShape& shape,
             const std::vector<RowBlock>& blocks);

  // The number of planes that may differ, and which of them a sequence and query head has.
  int64_t planes() const { return batches_ * heads_; }
  int64_t PlaneOf(int64_t batch, int64_t head) const {
    return (batches_ == 1 ? 0 : batch) * heads_ + (heads_ == 1 ? 0 : head);
  }
  MaskPlane Plane(const Mask& mask, int64_t plane) const {
    return {mask, plane / heads_, plane % heads_};
  }

  // Key positions outside of which each block sees nothing.
  std::span<const KeyRange> Of(int64_t plane) const {
    return {hulls_.data() + plane * blocks_, static_cast<size_t>(blocks_)};
  }

 private:
  int64_t batches_ = 0;  // as many as may differ
  int64_t heads_ = 0;
  int64_t blocks_ = 0;
  std::vector<KeyRange> hulls_;  // [planes][blocks]
};

inline bool Meets(const KeyRange& hull, const PositionRun& keys) {
  return hull.begin <= keys.last() && keys.start < hull.end;
}

// The work of one key/value block: how much of it the queries see, and how it is dealt to a team.
// Items are (head group, key tile), in this order; a head group is the query heads of one sequence
// that share a kv_head.
class BackwardPlan {
 public:
  // O(planes x tiles x blocks) comparisons, and a look at the mask where a block may see a tile.
  BackwardPlan(ThreadTeam& team, const Mask& mask, const AttentionShape& shape,
               const BlockHulls& hulls, const std::vector<RowBlock>& query_blocks,
               const std::vector<RowBlock>& key_tiles);

  int64_t groups() const { return groups_; }
  // (query block, key tile) of one head that have a visible pair.
  int64_t computed_tiles() const { return computed_tiles_; }

  // Where the items of each of `threads` threads begin among those of groups [begin, end), and the
  // end of the last: by visible pairs. A function of mask and shapes alone, so that sums over
  // threads repeat to the bit.
  std::vector<int64_t> Deal(int threads, int64_t begin, int64_t end) const;

 private:
  int64_t groups_ = 0;
  int64_t tiles_ = 0;  // key tiles
  int64_t computed_tiles_ = 0;
  std::vector<double> work_before_;  // visible pairs before each item, and in all
};

}  // namespace ringwise
