#pragma once

#include "attention/shard_attention.h"
#include "ringwise/context.h"
#include "ringwise/ring_attention.h"

// Forward of one device that has all the keys: a ring of one.
namespace ringwise {

// Overwrites `outputs`: the same as MakeShardAttentionForward's with all keys in one block. A few
// kv_heads are packed and attended at a time, in memory that is used again, and rows are completed
// as soon as they are computed, so that nothing of a tensor's size is held beside the inputs and
// outputs. Throws ShapeError if shapes disagree.
AttentionStats AttendAllKeys(Context& context, const AttentionShape& shape,
                             const AttentionOptions& options, const AttentionInputs& inputs,
                             const Positions& query_positions, const Positions& key_positions,
                             const AttentionOutputs& outputs);

}  // namespace ringwise
