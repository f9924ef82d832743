#include "planner/ring_travel.h"

namespace ringwise {

std::vector<Travel> TravelsOf(Layout layout, bool causal, bool queries_travel, int ranks) {
  const int forth = queries_travel ? -1 : 1;
  const int all = ranks - 1;
  std::vector<Travel> travels;
  for (int origin = 0; origin < ranks; ++origin) {
    if (!causal || layout == Layout::kStriped) {
      travels.push_back({.origin = origin, .direction = forth, .hops = all});
    } else if (layout == Layout::kContiguous) {
      // Keys are seen by later ranks, queries see earlier ones.
      travels.push_back(
          {.origin = origin, .direction = forth, .hops = queries_travel ? origin : all - origin});
    } else {
      // Early keys, or late queries, are of use to all; the others to the ranks before alone. Both
      // ways round are as far for the last rank's.
      travels.push_back({.origin = origin, .direction = forth, .hops = all, .share = 0.5});
      travels.push_back({.origin = origin,
                         .direction = origin == all ? forth : -1,
                         .hops = origin,
                         .share = 0.5,
                         .major = false});
    }
  }
  return travels;
}

TravelWork WorkOf(Layout layout, bool causal, bool queries_travel, const Travel& travel, int rank) {
  if (!causal) return {.pairs = 1, .rows = 1};
  if (layout == Layout::kStriped) return {.pairs = 0.5, .rows = 1};
  const bool own = travel.origin == rank;
  if (layout == Layout::kContiguous) {
    if (own) return {.pairs = 0.5, .rows = 1};
    const bool seen = queries_travel ? travel.origin > rank : travel.origin < rank;
    return seen ? TravelWork{.pairs = 1, .rows = 1} : TravelWork{};
  }
  // Quarters of the square: each of the two runs against each of the two.
  if (travel.major) {
    if (own) return {.pairs = 0.375, .rows = 1};
    return travel.origin < rank ? TravelWork{.pairs = 0.5, .rows = 1}
                                : TravelWork{.pairs = 0.25, .rows = 0.5};
  }
  if (own) return {.pairs = 0.125, .rows = 0.5};
  return travel.origin > rank ? TravelWork{.pairs = 0.25, .rows = 0.5} : TravelWork{};
}

}  // namespace ringwise
