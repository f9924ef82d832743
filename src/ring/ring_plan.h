#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ringwise/mask.h"
#include "ringwise/positions.h"
#include "ringwise/thread_team.h"

namespace ringwise {

// Who attends to which key/value block at which ring step, and so what travels: a function of the
// mask and of all ranks' positions, the same on every rank.
//
// Block b is a stretch of rank b's keys and values: from the first that another rank's queries may
// see to the last, such as the end of the shard under a window; the keys before and after stay at
// home. At step s it is with rank (b + s) mod ring_size, if it goes so far: it moves to the next
// rank after every step until the last rank that uses it has it, and not one hop further. In
// backward its gradient starts at the first rank that uses it, moves along with it, and goes home
// from the last.
class RingPlan {
 public:
  static constexpr int kNever = -1;
  // Blocks begin and end at multiples of so many rows of a run, or with it: as tiles of keys do, so
  // that a shard cut in two has no more of them.
  static constexpr int64_t kRowUnit = 384;

  // For the masks of all `batch` sequences and `heads` query heads.
  RingPlan(const Mask& mask, int64_t batch, int64_t heads,
           const std::vector<Positions>& query_positions,
           const std::vector<Positions>& key_positions, int64_t row_unit = kRowUnit);

  int ring_size() const { return static_cast<int>(rows_.size()); }
  int BlockAt(int rank, int step) const { return (rank + ring_size() - step) % ring_size(); }
  int RankAt(int block, int step) const { return (block + step) % ring_size(); }
  // Which rows of rank `block`'s keys the block is; all of them if no other rank sees any.
  Range rows(int block) const { return rows_[block]; }
  int64_t kv_len(int block) const { return rows_[block].size(); }

  // Whether the rank that block is with at `step` has a query that sees a key of it.
  bool Uses(int block, int step) const { return uses_[block][step]; }
  // Steps of the block's first and last use; kNever both if nobody sees any key of it.
  int first_use(int block) const { return first_use_[block]; }
  int last_use(int block) const { return last_use_[block]; }

  // Whether the block (and in backward its gradient) is handed on after `step`.
  bool Moves(int block, int step) const { return step < last_use_[block]; }
  bool GradientMoves(int block, int step) const {
    return Moves(block, step) && first_use_[block] <= step;
  }

  // Bytes `rank` sends, given the bytes of a block and of its gradient by kv_len; the gradient's is
  // empty for forward.
  using BytesOf = std::function<int64_t(int64_t kv_len)>;
  int64_t BytesSent(int rank, const BytesOf& block_bytes, const BytesOf& gradient_bytes) const;

 private:
  std::vector<Range> rows_;
  std::vector<std::vector<bool>> uses_;
  std::vector<int> first_use_, last_use_;
};

// The positions of some rows of a shard.
Positions PositionsOf(const Positions& shard, Range rows);

}  // namespace ringwise
