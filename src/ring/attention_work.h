#pragma once

#include <cstdint>
#include <span>

#include "ringwise/mask.h"
#include "ringwise/positions.h"

// How evenly a layout shares attention over the ranks.
namespace ringwise {

// The (query, key) pairs that a rank's queries see, in all sequences of the batch and all heads;
// `keys` are those of all ranks, in as few runs as possible. O(batch x queries).
int64_t VisiblePairs(const Mask& mask, int64_t batch, int64_t heads, const Positions& queries,
                     const Positions& keys);

// The busiest rank's pairs over the mean: 1 is even; without any pair also 1.
double LargestOverMean(std::span<const double> pairs_by_rank);

}  // namespace ringwise
