#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/tile_operands.h"
#include "attention/tiling.h"
#include "kernels/tile_kernels.h"
#include "ringwise/mask.h"

namespace ringwise {

// What one panel of queries sees of a key tile.
struct TileView {
  RowBlock queries;                   // at most kPanel
  VisibleRows rows;                   // outside of which nothing is seen; none: begin == end
  const uint64_t* visible = nullptr;  // of each row of the tile, a bit a column; null: all

  // What it sees of a few rows.
  struct Step {
    VisibleRows rows;                   // none: begin == end
    const uint64_t* visible = nullptr;  // from rows.begin on; null: all
    uint64_t columns = 0;               // that see some of it, a bit each

    bool empty() const { return rows.begin >= rows.end; }
  };

  // Only rows at the edges of what is visible need their elements tested.
  Step At(VisibleRows step) const {
    const VisibleRows part{std::max(step.begin, rows.begin), std::min(step.end, rows.end)};
    if (part.begin >= part.end) return {};
    const uint64_t columns = ~uint64_t{0} >> (kPanel - queries.count());
    if (visible == nullptr) return {part, nullptr, columns};
    uint64_t any = 0;
    uint64_t all = columns;
    for (int row = part.begin; row < part.end; ++row) {
      any |= visible[row];
      all &= visible[row];
    }
    if (any == 0) return {};
    return {part, all == columns ? nullptr : visible + part.begin, any};
  }

  // What it sees of the longest run of steps that are alike, seen as a whole or in part, and have
  // at most so many rows. Empty if the first step is.
  Step RunFrom(int begin, int step_rows, int most) const {
    Step run = At({begin, begin + step_rows});
    const int last = std::min(rows.end, begin + most);
    for (int end = begin + step_rows; !run.empty() && end < last; end += step_rows) {
      const Step next = At({end, end + step_rows});
      if (next.empty() || (next.visible == nullptr) != (run.visible == nullptr)) break;
      run.rows.end = next.rows.end;
      run.columns |= next.columns;
    }
    return run;
  }
};

// `bits` has a word for each row of the tile. The first visible row is rounded down to a multiple
// of `row_group`.
inline TileView Look(const MaskPlane& plane, const RowBlock& queries, const RowBlock& tile,
                     uint64_t* bits, int row_group) {
  switch (Classify(plane, queries.positions, tile.positions)) {
    case TileKind::kEmpty:
      break;
    case TileKind::kFull:
      return {queries, {0, static_cast<int>(tile.count())}, nullptr};
    case TileKind::kPartial: {
      VisibleRows rows = FindVisible(plane, queries.positions, tile.positions, bits);
      rows.begin -= rows.begin % row_group;
      return {queries, rows, bits};
    }
  }
  return {queries, {}, nullptr};
}

}  // namespace ringwise
