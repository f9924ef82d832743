#pragma once

#include "attention/shard_attention.h"
#include "ringwise/context.h"
#include "ringwise/ring_attention.h"

// Attention of a handful of queries over many keys, as in decoding: each key and value is read
// once, where it lies, and nothing is packed or transposed. The limit is the memory's bandwidth.
namespace ringwise {

// Whether a call of one rank is better done so: few query rows share a kv_head of many keys, and
// nothing but the mask and the sinks makes the scores. Only of very many keys: dot products add up
// in another order than in tiles, so that results differ from those of a larger ring, and logsumexp
// from what backward's scores come to, by the rounding of scores (1e-6 of the output, 1e-5 where
// logits are in the tens) rather than of sums alone.
bool SuitsFewQueries(const AttentionShape& shape, const AttentionOptions& options, int64_t q_len,
                     int64_t kv_len);

// Overwrites `outputs`. The keys are taken in blocks whose partial results are merged in order: the
// same bits for any team.
AttentionStats AttendFewQueries(Context& context, const AttentionShape& shape,
                                const AttentionOptions& options, const AttentionInputs& inputs,
                                const Positions& query_positions, const Positions& key_positions,
                                const AttentionOutputs& outputs);

}  // namespace ringwise
