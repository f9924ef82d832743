#pragma once

#include <cstdint>
#include <span>

#include "ringwise/positions.h"

namespace ringwise {

// Which keys a query may see, as a function of global positions alone: the same whatever the
// layout, the number of ranks or the tiles.
struct Mask {
  bool causal = false;  // key position <= query position

  bool operator==(const Mask&) const = default;
};

enum class TileKind { kEmpty, kFull, kPartial };

// Whether no, every or some key of `keys` is visible from the queries of `queries`.
// O(1), exact for empty and full. A tile without rows or columns is empty.
TileKind Classify(const Mask& mask, const PositionRun& queries, const PositionRun& keys);

// The queries of `queries` that see the key at position `key`: local indices [begin, end).
struct VisibleQueries {
  int32_t begin = 0;
  int32_t end = 0;
};
VisibleQueries QueriesThatSee(const Mask& mask, const PositionRun& queries, int64_t key);

// The definition, for one pair: what the other functions must agree with.
bool Sees(const Mask& mask, int64_t query_position, int64_t key_position);

// Number of (query, key) pairs visible: the least work there is.
int64_t CountVisible(const Mask& mask, const Positions& queries, const Positions& keys);

}  // namespace ringwise
