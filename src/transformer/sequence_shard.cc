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

}  // namespace ringwise
