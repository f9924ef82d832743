#include "ringwise/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "ringwise/error.h"
#include "ringwise/thread_team.h"

namespace ringwise {

std::string_view Name(Layout layout) {
  switch (layout) {
    case Layout::kContiguous:
      return "contiguous";
    case Layout::kStriped:
      return "striped";
    case Layout::kZigzag:
      return "zigzag";
  }
  return "";
}

Layout ParseLayout(std::string_view name) {
  for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
    if (name == Name(layout)) return layout;
  }
  throw UsageError(fmt::format("layout must be contiguous, striped or zigzag, found \"{}\"", name));
}

Positions ShardPositions(Layout layout, int64_t seq, int ranks, int rank, int64_t offset) {
  assert(seq >= 0 && rank >= 0 && rank < ranks);
  Positions positions;
  const auto add = [&](const PositionRun& run) {
    if (run.count > 0) positions.push_back(run);
  };
  const auto part = [&](int parts, int index) -> PositionRun {
    const Range range = SplitRange(seq, parts, index);
    return {offset + range.begin, range.size(), 1};
  };
  switch (layout) {
    case Layout::kContiguous:
      add(part(ranks, rank));
      break;
    case Layout::kStriped:
      add({offset + rank, std::max<int64_t>(0, (seq - rank + ranks - 1) / ranks), ranks});
      break;
    case Layout::kZigzag: {
      const PositionRun low = part(2 * ranks, rank);
      const PositionRun high = part(2 * ranks, 2 * ranks - 1 - rank);
      if (rank + 1 == ranks) {  // the last rank's parts are neighbours
        add({low.start, low.count + high.count, 1});
      } else {
        add(low);
        add(high);
      }
      break;
    }
  }
  return positions;
}

}  // namespace ringwise
