#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/mask.h"
#include "ringwise/positions.h"

namespace ringwise {

// How evenly a layout shares attention: the (query, key) pairs that each rank's queries see, in all
// sequences of the batch and all heads.
struct AttentionWork {
  std::vector<int64_t> visible_pairs;  // by rank
  double largest_over_mean = 1;        // 1 is even; without any pair also 1
};

AttentionWork ComputeAttentionWork(const Mask& mask, int64_t batch, int64_t heads,
                                   const std::vector<Positions>& query_positions,
                                   const std::vector<Positions>& key_positions);

}  // namespace ringwise
