#include "ringwise/mask.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>

namespace ringwise {
namespace {

// First index of `run` whose position is `position` or later; run.count if none is.
int64_t FirstFrom(const PositionRun& run, int64_t position) {
  if (position <= run.start) return 0;
  return std::min(run.count, (position - run.start + run.stride - 1) / run.stride);
}

// Sum over i in [0, count) of floor((offset + i * slope) / divisor), all arguments >= 0, in
// O(log): whole quotients are summed in closed form, then the lattice points under the remaining
// line are counted along its other axis, as in Euclid's algorithm.
int64_t SumOfFloors(int64_t count, int64_t divisor, int64_t slope, int64_t offset) {
  int64_t sum = 0;
  while (count > 0) {
    sum += (slope / divisor) * (count * (count - 1) / 2) + (offset / divisor) * count;
    slope %= divisor;
    offset %= divisor;
    const int64_t end = slope * count + offset;
    if (end < divisor) break;
    count = end / divisor;
    offset = end % divisor;
    std::swap(slope, divisor);
  }
  return sum;
}

int64_t CountVisible(const Mask& mask, const PositionRun& queries, const PositionRun& keys) {
  if (queries.count == 0 || keys.count == 0) return 0;
  if (!mask.causal) return queries.count * keys.count;
  // Queries before the first key see none, those from the last key on see all; in between, query i
  // sees keys 0 ... floor((position - keys.start) / keys.stride).
  const int64_t some = FirstFrom(queries, keys.start);
  const int64_t all = FirstFrom(queries, keys.last());
  const int64_t between = all - some;
  if (between == 0) return (queries.count - all) * keys.count;
  return SumOfFloors(between, keys.stride, queries.stride, queries[some] - keys.start) + between +
         (queries.count - all) * keys.count;
}

}  // namespace

TileKind Classify(const Mask& mask, const PositionRun& queries, const PositionRun& keys) {
  if (queries.count == 0 || keys.count == 0) return TileKind::kEmpty;
  if (!mask.causal) return TileKind::kFull;
  if (keys.start > queries.last()) return TileKind::kEmpty;
  return keys.last() <= queries.start ? TileKind::kFull : TileKind::kPartial;
}

VisibleQueries QueriesThatSee(const Mask& mask, const PositionRun& queries, int64_t key) {
  assert(queries.count <= std::numeric_limits<int32_t>::max());
  const int64_t begin = mask.causal ? FirstFrom(queries, key) : 0;
  return {static_cast<int32_t>(begin), static_cast<int32_t>(queries.count)};
}

bool Sees(const Mask& mask, int64_t query_position, int64_t key_position) {
  return !mask.causal || key_position <= query_position;
}

int64_t CountVisible(const Mask& mask, const Positions& queries, const Positions& keys) {
  int64_t count = 0;
  for (const PositionRun& query_run : queries) {
    for (const PositionRun& key_run : keys) count += CountVisible(mask, query_run, key_run);
  }
  return count;
}

}  // namespace ringwise
