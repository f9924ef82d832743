#pragma once

#include <cstdint>

#include "core/dropout_stream.h"
#include "ringwise/positions.h"

namespace ringwise {

// kept[row] = the queries whose pair with key keys[row] stays, query `c` as bit c: equal to
// stream.Keeps(queries[c], keys[row]) to the bit. At most 64 queries; bits past them are 0.
void DropoutBits(const DropoutStream& stream, const PositionRun& queries, const PositionRun& keys,
                 uint64_t* kept);

}  // namespace ringwise
