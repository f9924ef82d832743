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

}  // namespace ringwise
