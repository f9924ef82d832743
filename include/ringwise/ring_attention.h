#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ringwise/attention_options.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Exact attention of a sequence cut over the ranks of a ring [arXiv 2310.01889]. Each rank holds a
// shard of the queries and a shard of the keys and values; key/value blocks travel from rank to
// next rank while each rank attends to the block it holds. A ring of one is ordinary attention.
struct RingAttentionOptions : AttentionOptions {
  // Positions of every rank's rows, indexed by rank, the same on every rank: see ShardPositions.
  std::vector<Positions> query_positions;
  std::vector<Positions> key_positions;
  // The bias has one row for the queries of all ranks, not one for each query of this rank: shapes
  // do not tell where a rank has one query.
  bool bias_has_one_row = false;
};

// This rank's rows, all of one type, f32 or bf16.
struct AttentionInputs {
  ConstTensorView query;  // [batch, q_len, heads, head_dim]
  ConstTensorView key;    // [batch, kv_len, kv_heads, head_dim]
  ConstTensorView value;  // [batch, kv_len, kv_heads, value_dim]
};

// What forward writes. Results lie apart from the inputs, here and in backward: what they hold
// meanwhile are sums.
struct AttentionOutputs {
  TensorView output;     // [batch, q_len, heads, value_dim], rounded once to the view's type
  TensorView logsumexp;  // [batch, heads, q_len] f32
};

// What backward needs of forward, and the gradients it starts from.
struct AttentionSaved {
  ConstTensorView output;           // as forward left it
  ConstTensorView logsumexp;        // likewise
  ConstTensorView output_gradient;  // [batch, q_len, heads, value_dim], of the inputs' type
  // [batch, heads, q_len] f32: where results are merged outside, which uses logsumexp.
  std::optional<ConstTensorView> logsumexp_gradient = {};
};

// What backward writes, in the views' types: of this rank's rows.
struct AttentionGradients {
  TensorView query, key, value;  // as the inputs
  // f32, as the options' tensors, contiguous. The gradients of the sinks, and of the bias where
  // bias_has_one_row, are summed over the ring: every rank gets the whole.
  std::optional<TensorView> bias = {};
  std::optional<TensorView> sinks = {};
};

// What this rank did in a call. A tile is up to `tile_queries` queries of one head against up to
// `tile_keys` keys; those without a visible pair are not computed.
struct AttentionStats {
  int64_t tiles = 0;
  int64_t tile_queries = 0;
  int64_t tile_keys = 0;
};

// heads % kv_heads == 0; head_dim and value_dim 1 to 256. Throws ShapeError or UsageError before
// any transfer, on every rank and naming the argument, if tensors or options do not fit each other
// or differ between ranks; PeerError. A collective call: every rank of `ring` makes it.
AttentionStats RingAttentionForward(Context& context, Communicator& ring,
                                    const RingAttentionOptions& options,
                                    const AttentionInputs& inputs, const AttentionOutputs& outputs);

// Gradients are summed in f32, in ring order. Keys travel with dk and dv, or queries with dq,
// whichever sends fewer bytes in all: docs/ring_attention.md says when.
AttentionStats RingAttentionBackward(Context& context, Communicator& ring,
                                     const RingAttentionOptions& options,
                                     const AttentionInputs& inputs, const AttentionSaved& saved,
                                     const AttentionGradients& gradients);

}  // namespace ringwise
