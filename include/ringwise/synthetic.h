#pragma once

#include <cstdint>

#include "ringwise/context.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// The synthetic task: sample `index` >= 0 of `seed` is an array [length, width] of independent
// standard normal numbers, and its label is 1 if their sum is above 0, else 0. There are as many
// samples as one asks for, so training and test take disjoint ranges of `index`.
//
// Writes the rows of a shard. A number is a function of (seed, index, position, column) alone, so
// the ranks of a ring make their own rows, whatever the layout, and hold together the same sample
// (on another kind of CPU the last bits may differ). The caller sums for the label, in double over
// all rows and ranks: the order then changes the sum by some 1e-14 of its spread, so practically
// never its sign. rows: f32 [Count(positions), width], may be strided; overwritten. Throws
// ShapeError. Team-parallel.
//
//   SyntheticRows(context, seed, step, ShardPositions(...), x.view());
void SyntheticRows(Context& context, uint64_t seed, int64_t index, const Positions& positions,
                   TensorView rows);

}  // namespace ringwise
