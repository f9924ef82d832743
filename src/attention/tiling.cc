#include "attention/tiling.h"

namespace ringwise {

std::vector<RowBlock> CutIntoBlocks(const Positions& positions, int64_t rows) {
  std::vector<RowBlock> blocks;
  int64_t local = 0;
  for (const PositionRun& run : positions) {
    for (int64_t done = 0; done < run.count;) {
      const int64_t count = std::min(rows, run.count - done);
      blocks.push_back({local + done, {run[done], count, run.stride}});
      done += count;
    }
    local += run.count;
  }
  return blocks;
}

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

}  // namespace ringwise
