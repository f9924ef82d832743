#pragma once

#include <cstdint>
#include <string_view>

#include "ringwise/positions.h"

namespace ringwise {

// How a sequence is cut over the ranks of a ring.
//
// - contiguous: rank r holds the r-th part. Under a causal mask the last rank works most.
// - striped: rank r holds positions r, r + R, r + 2R, ... [arXiv 2311.09431]
// - zigzag: the sequence in 2R parts, of which rank r holds parts r and 2R - 1 - r.
//
// Striped and zigzag balance causal attention. Nothing needs to divide; shards may be empty.
enum class Layout { kContiguous, kStriped, kZigzag };

std::string_view Name(Layout layout);
Layout ParseLayout(std::string_view name);  // throws UsageError naming the three

// The positions that `rank` of `ranks` holds of a sequence of `seq` tokens at positions
// offset ... offset + seq - 1. Every position belongs to exactly one rank, whose runs ascend.
Positions ShardPositions(Layout layout, int64_t seq, int ranks, int rank, int64_t offset = 0);

}  // namespace ringwise
