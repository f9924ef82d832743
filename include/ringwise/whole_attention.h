#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/layout.h"
#include "ringwise/mask.h"
#include "ringwise/tensor.h"

// Ring attention of whole tensors that every rank can read: each rank cuts out its rows, and the
// results are put together again. For checking, and for sequences that one rank can hold.
namespace ringwise {

struct WholeAttention {
  Mask mask;
  std::optional<double> scale;
  int64_t query_offset = 0;  // query i has position i + query_offset, key j position j
  Layout layout = Layout::kContiguous;
  ConstTensorView query;                           // [batch, q_len, heads, head_dim]
  ConstTensorView key, value;                      // [batch, kv_len, kv_heads, head_dim]
  std::optional<ConstTensorView> output_gradient;  // as query
};

// Whole tensors in row order, f32; gradients are empty without an output gradient.
struct WholeResults {
  std::vector<float> output;
  std::vector<float> logsumexp;  // [batch, heads, q_len]
  std::vector<float> dq, dk, dv;
};

// Collective; every rank gets the whole results. Throws as RingAttentionForward does.
WholeResults AttendWhole(Context& context, Communicator& ring, const WholeAttention& whole);

}  // namespace ringwise
