#include "transformer/sequence_shard.h"

#include <algorithm>

namespace ringwise {

Positions SequenceShard::PositionsOfRows(int64_t begin, int64_t count) const {
  const Positions& local = attention.query_positions[static_cast<size_t>(ring.rank())];
  Positions positions;
  int64_t skip = length > 0 ? begin % length : 0;
  while (count > 0) {
    for (const PositionRun& run : local) {
      const int64_t skipped = std::min(skip, run.count);
      const int64_t taken = std::min(count, run.count - skipped);
      if (taken > 0) positions.push_back({run[skipped], taken, run.stride});
      skip -= skipped;
      count -= taken;
    }
  }
  return positions;
}

int64_t HeadGroups(int64_t rows, int64_t kv_heads) {
  if (rows < kRowsForTwoGroups) return 1;
  return std::min<int64_t>(rows < kRowsForFourGroups ? 2 : 4, kv_heads);
}

}  // namespace ringwise
