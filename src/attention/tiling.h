#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/round_up.h"
#include "ringwise/memory.h"
#include "ringwise/positions.h"
#include "ringwise/thread_team.h"

namespace ringwise {

// Consecutive rows of a shard that lie in one position run.
struct RowBlock {
  int64_t begin = 0;      // local index of the first
  PositionRun positions;  // of all of them

  int64_t count() const { return positions.count; }
};

// Cuts the rows of a shard into blocks of at most `rows`, in order. Each run is cut by itself, from
// its first row: so few blocks, and none spans two runs.
std::vector<RowBlock> CutIntoBlocks(const Positions& positions, int64_t rows);

// The positions of some rows of a shard.
Positions PositionsOf(const Positions& shard, Range rows);

// Part of a block.
inline RowBlock Part(const RowBlock& block, int64_t begin, int64_t count) {
  return {block.begin + begin,
          {block.positions[begin], std::min(count, block.count() - begin), block.positions.stride}};
}

}  // namespace ringwise
