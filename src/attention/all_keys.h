#pragma once

#include "attention/shard_attention.h"
#include "ringwise/context.h"
#include "ringwise/ring_attention.h"

// Forward of one device that has all the keys: a ring of one.
namespace ringwise {

// Overwrites `outputs`: the same as MakeShardAttentionForward's with all keys in one block. Rows
// are completed as soon as they are computed. Kv_heads of a sequence are packed and attended some
// at a time, in memory that is used again: as many as fit into 8 MiB or give every thread enough
// query blocks, and at least one. So beside the inputs and outputs there are the packed keys and
// values of those (with one sequence and one kv_head, of all) and a workspace a thread, nothing of
// the queries' length. Throws ShapeError if shapes disagree.
AttentionStats AttendAllKeys(Context& context, const AttentionShape& shape,
                             const AttentionOptions& options, const AttentionInputs& inputs,
                             const Positions& query_positions, const Positions& key_positions,
                             const AttentionOutputs& outputs);

}  // namespace ringwise
