#include "ringwise/positions.h"

#include <cassert>

namespace ringwise {

int64_t Count(const Positions& positions) {
  int64_t count = 0;
  for (const PositionRun& run : positions) count += run.count;
  return count;
}

int64_t At(const Positions& positions, int64_t local_index) {
  assert(local_index >= 0 && local_index < Count(positions));
  auto run = positions.begin();
  for (; local_index >= run->count; ++run) local_index -= run->count;
  return (*run)[local_index];
}

}  // namespace ringwise
