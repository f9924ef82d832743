#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/mask.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Exact attention of a sequence cut over the ranks of a ring [arXiv 2310.01889]. Each rank holds a
// shard of the queries and a shard of the keys and values; key/value blocks travel from rank to
// next rank while each rank attends to the block it holds. A ring of one is ordinary attention.
struct RingAttentionOptions {
  std::optional<double> scale;  // default head_dim^-1/2
  Mask mask;
  // Positions of every rank's rows, indexed by rank, the same on every rank: see ShardPositions.
  std::vector<Positions> query_positions;
  std::vector<Positions> key_positions;
};

// query [batch, q_len, heads, head_dim]; key, value [batch, kv_len, kv_heads, head_dim], this
// rank's rows; f32 or bf16, all the same. heads % kv_heads == 0; head_dim 1 to 256. Writes output
// [as query] in its view's type and logsumexp [batch, heads, q_len] f32. Rows that see nothing:
// output 0, logsumexp -inf. Throws ShapeError before any transfer; PeerError. A collective call:
// every rank of `ring` makes it.
void RingAttentionForward(Context& context, Communicator& ring, const RingAttentionOptions& options,
                          ConstTensorView query, ConstTensorView key, ConstTensorView value,
                          TensorView output, TensorView logsumexp);

// With forward's output and logsumexp, and d_output [as query]: writes the gradients of query, key
// and value, in their views' types. dk and dv travel and are summed in f32, in ring order.
void RingAttentionBackward(Context& context, Communicator& ring,
                           const RingAttentionOptions& options, ConstTensorView query,
                           ConstTensorView key, ConstTensorView value, ConstTensorView output,
                           ConstTensorView logsumexp, ConstTensorView output_gradient,
                           TensorView query_gradient, TensorView key_gradient,
                           TensorView value_gradient);

}  // namespace ringwise
