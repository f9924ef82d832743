#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/layout.h"
#include "ringwise/ring_attention.h"
#include "ringwise/tensor.h"

// Ring attention of whole tensors that every rank can read: each rank cuts out its rows, and the
// results are put together again. For checking, and for sequences that one rank can hold.
namespace ringwise {

struct WholeAttention : AttentionOptions {  // with the bias of all queries
  int64_t query_offset = 0;             // query i has position i + query_offset, key j position j
  Layout layout = Layout::kContiguous;  // of the queries
  Layout key_layout = Layout::kContiguous;  // of keys and values
  AttentionInputs inputs;
  std::optional<ConstTensorView> output_gradient = {};     // [batch, q_len, heads, value_dim]
  std::optional<ConstTensorView> logsumexp_gradient = {};  // f32 [batch, heads, q_len]
};

// Whole tensors in row order, f32; gradients are empty without an output gradient.
struct WholeResults {
  std::vector<float> output;
  std::vector<float> logsumexp;  // [batch, heads, q_len]
  std::vector<float> dq, dk, dv;
  std::vector<float> dbias, dsinks;  // empty without a bias or sinks
  AttentionStats forward, backward;  // tiles of all ranks
};

// Collective; every rank gets the whole results. Throws as RingAttentionForward does.
WholeResults AttendWhole(Context& context, Communicator& ring, const WholeAttention& whole);

}  // namespace ringwise
