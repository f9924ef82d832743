#pragma once

#include <algorithm>
#include <vector>

#include "attention/tiling.h"
#include "ringwise/mask.h"
#include "ringwise/positions.h"

namespace ringwise {

// The key tiles of one block, found by what queries see: at the cost of the tiles between the first
// and the last visible one, however long the block.
class KeyTiles {
 public:
  KeyTiles(const Positions& positions, int64_t rows) : tiles_(CutIntoBlocks(positions, rows)) {
    for (size_t i = 0; i < tiles_.size(); ++i) {
      if (i == 0 || tiles_[i].positions.start <= tiles_[i - 1].positions.last()) {
        stretches_.push_back(i);
      }
    }
    stretches_.push_back(tiles_.size());
  }

  // Calls visit(tile, next) for every tile of which `queries` see a key, in order. `next` is the
  // tile that comes after it, if any that they may see; a mask may hide it all the same.
  template <class Visit>
  void ForEachVisible(const MaskPlane& plane, const PositionRun& queries,
                      const Visit& visit) const {
    const KeyRange hull = HullOfVisible(plane, queries);
    for (size_t stretch = 0; stretch + 1 < stretches_.size(); ++stretch) {
      const auto end = tiles_.begin() + static_cast<std::ptrdiff_t>(stretches_[stretch + 1]);
      auto tile = std::partition_point(
          tiles_.begin() + static_cast<std::ptrdiff_t>(stretches_[stretch]), end,
          [&](const RowBlock& other) { return other.positions.last() < hull.begin; });
      for (; tile != end && tile->positions.start < hull.end; ++tile) {
        if (Classify(plane, queries, tile->positions) == TileKind::kEmpty) continue;
        const bool last = tile + 1 == end || (tile + 1)->positions.start >= hull.end;
        visit(*tile, last ? nullptr : &*(tile + 1));
      }
    }
  }

 private:
  std::vector<RowBlock> tiles_;
  std::vector<size_t> stretches_;  // where positions start to ascend anew, and the end
};

}  // namespace ringwise
