#include "ring/ring_plan.h"

#include <algorithm>
#include <utility>

namespace ringwise {
namespace {

bool SeesAny(const MaskPlane& plane, const Positions& queries, const Positions& keys) {
  return std::any_of(queries.begin(), queries.end(), [&](const PositionRun& query_run) {
    return std::any_of(keys.begin(), keys.end(), [&](const PositionRun& key_run) {
      return Classify(plane, query_run, key_run) != TileKind::kEmpty;
    });
  });
}

// Rows of a run whose positions lie in the range.
Range RowsWithin(const PositionRun& run, const KeyRange& range) {
  const auto first_from = [&](int64_t position) {
    if (position <= run.start) return int64_t{0};
    if (position > run.last()) return run.count;
    return (position - run.start + run.stride - 1) / run.stride;
  };
  return {first_from(range.begin), first_from(range.end)};
}

// The stretch of `keys` that queries of other ranks than `own` may see; empty if there is none.
Range RowsSeenElsewhere(const std::vector<std::pair<MaskPlane, int64_t>>& planes, int own,
                        const std::vector<Positions>& query_positions, const Positions& keys) {
  Range seen{Count(keys), 0};
  const auto add = [&](const KeyRange& visible) {
    int64_t row = 0;
    for (const PositionRun& run : keys) {
      const Range within = run.count > 0 ? RowsWithin(run, visible) : Range{0, 0};
      if (within.begin < within.end) {
        seen.begin = std::min(seen.begin, row + within.begin);
        seen.end = std::max(seen.end, row + within.end);
      }
      row += run.count;
    }
  };
  for (int rank = 0; rank < static_cast<int>(query_positions.size()); ++rank) {
    if (rank == own) continue;
    for (const PositionRun& queries : query_positions[rank]) {
      if (queries.count == 0) continue;
      for (const auto& plane : planes) add(HullOfVisible(plane.first, queries));
    }
  }
  return seen;
}

// `seen`, made longer up to whole units of the runs where it begins and ends; all if it is empty.
Range BlockRows(const Range& seen, const Positions& keys, int64_t unit) {
  Range rows{0, Count(keys)};
  if (seen.begin >= seen.end) return rows;
  int64_t row = 0;
  for (const PositionRun& run : keys) {
    const Range in_run{seen.begin - row, seen.end - row};
    if (0 <= in_run.begin && in_run.begin < run.count) {
      rows.begin = row + in_run.begin / unit * unit;
    }
    if (0 < in_run.end && in_run.end <= run.count) {
      rows.end = row + std::min(run.count, (in_run.end + unit - 1) / unit * unit);
    }
    row += run.count;
  }
  return rows;
}

}  // namespace

Positions PositionsOf(const Positions& shard, Range rows) {
  Positions part;
  int64_t row = 0;
  for (const PositionRun& run : shard) {
    const int64_t begin = std::max<int64_t>(rows.begin - row, 0);
    const int64_t end = std::min(rows.end - row, run.count);
    if (begin < end) part.push_back({run[begin], end - begin, run.stride});
    row += run.count;
  }
  return part;
}

RingPlan::RingPlan(const Mask& mask, int64_t batch, int64_t heads,
                   const std::vector<Positions>& query_positions,
                   const std::vector<Positions>& key_positions, int64_t row_unit) {
  const auto planes = DistinctPlanes(mask, batch, heads);
  const auto ranks = static_cast<int>(key_positions.size());
  for (int block = 0; block < ranks; ++block) {
    const Positions& shard = key_positions[block];
    rows_.push_back(
        BlockRows(RowsSeenElsewhere(planes, block, query_positions, shard), shard, row_unit));
    const Positions keys = PositionsOf(shard, rows_.back());
    uses_.emplace_back(ranks, false);
    first_use_.push_back(kNever);
    last_use_.push_back(kNever);
    for (int step = 0; step < ranks; ++step) {
      const Positions& queries = query_positions[(block + step) % ranks];
      const bool sees = std::any_of(planes.begin(), planes.end(), [&](const auto& plane) {
        return SeesAny(plane.first, queries, keys);
      });
      if (!sees) continue;
      uses_[block][step] = true;
      if (first_use_[block] == kNever) first_use_[block] = step;
      last_use_[block] = step;
    }
  }
}

int64_t RingPlan::BytesSent(int rank, const BytesOf& block_bytes,
                            const BytesOf& gradient_bytes) const {
  int64_t bytes = 0;
  for (int step = 0; step < ring_size(); ++step) {
    const int block = BlockAt(rank, step);
    if (Moves(block, step)) bytes += block_bytes(kv_len(block));
    if (!gradient_bytes) continue;
    const bool goes_home = step > 0 && step == last_use_[block];
    if (GradientMoves(block, step) || goes_home) bytes += gradient_bytes(kv_len(block));
  }
  return bytes;
}

}  // namespace ringwise
