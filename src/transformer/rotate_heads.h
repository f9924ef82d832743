#pragma once

#include <cstdint>

#include "ringwise/context.h"
#include "ringwise/tensor.h"
#include "transformer/sequence_shard.h"

namespace ringwise {

// Turns the first `heads` heads of each row by the row's position [arXiv 2104.09864], or back. rows
// [rows, at least heads * head_dim], the shard's rows from `begin` on.
void RotateHeads(Context& context, const SequenceShard& shard, int64_t begin, TensorView rows,
                 int64_t heads, int64_t head_dim, bool back);

}  // namespace ringwise
