#pragma once

#include <cstdint>
#include <string>

#include "ringwise/communicator.h"
#include "ringwise/whole_attention.h"

namespace ringwise {

// What dump_stats gives, as JSON: the tiles of each direction beside the least there may be, the
// bytes each rank sent, and how evenly the ranks' work is shared. `bytes_sent` is this rank's in
// the call. Collective; docs/attention.md explains the fields.
std::string AttentionStatsJson(Communicator& ring, const WholeAttention& whole,
                               const WholeResults& results, int64_t bytes_sent);

}  // namespace ringwise
