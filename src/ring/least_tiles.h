#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/mask.h"
#include "ringwise/positions.h"

namespace ringwise {

// The least tiles of up to tile_queries x tile_keys pairs that attention must compute: those with a
// visible pair when every rank's queries, and every block's keys, are cut in order within their
// runs. Summed over the sequences of the batch and the heads. Looks at every tile, so that it can
// check those who leave tiles out; 0 if a tile has no extent.
int64_t LeastTiles(const Mask& mask, int64_t batch, int64_t heads,
                   const std::vector<Positions>& query_positions,
                   const std::vector<Positions>& key_positions, int64_t tile_queries,
                   int64_t tile_keys);

}  // namespace ringwise
