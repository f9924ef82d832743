#pragma once

#include "attention/shard_attention.h"
#include "ringwise/context.h"
#include "ringwise/ring_attention.h"

// Attention of a handful of queries over many keys, as in decoding: each key and value is read
// once, where it lies; there are no packed copies of a tensor's size. The limit is the memory's
// bandwidth.
namespace ringwise {

// Only of so many keys: dot products add up in another order than in tiles, so that results differ
// from those of a larger ring, and logsumexp from what backward's scores come to, by the rounding
// of scores (1e-6 of the output, 1e-5 where logits are in the tens) rather than of sums alone. In
// bf16 probabilities are rounded as in tiles where matrix tiles multiply, and not at all elsewhere.
constexpr int64_t kFewQueriesLeastKeys = 16384;

// Whether a call of one rank is better done so: few query rows share a kv_head of many keys,
// nothing but the mask and the sinks makes the scores, and keys stand in long runs of positions, of
// which the mask is asked many at a time.
bool SuitsFewQueries(const AttentionShape& shape, const AttentionOptions& options, int64_t q_len,
                     const Positions& key_positions);

AttentionStats AttendFewQueries(Context& context, const AttentionShape& shape,
                                const AttentionOptions& options, const AttentionInputs& inputs,
                                const Positions& query_positions, const Positions& key_positions,
                                const AttentionOutputs& outputs);

}  // namespace ringwise
