#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/layout.h"
#include "ringwise/mask.h"
#include "ringwise/ring_attention.h"
#include "ringwise/tensor.h"

// Ring attention of whole tensors that every rank can read: each rank cuts out its rows, and the
// results are put together again. For the command line and for tests, where sequences are short.
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

  bool operator==(const WholeResults&) const = default;
};

// The options of ring attention for `ranks` ranks.
RingAttentionOptions OptionsFor(const WholeAttention& whole, int ranks);

// The rows of `whole` [batch, length, heads, head_dim] at `positions`, where the row of position p
// is row p - offset.
Tensor CutRows(Context& context, ConstTensorView whole, const Positions& positions, int64_t offset);

// Collective; every rank gets the whole results. Throws as RingAttentionForward does.
WholeResults AttendWhole(Context& context, Communicator& ring, const WholeAttention& whole);

// Puts every rank's rows of a tensor [batch, length, row_elements], f32 or double bytes, together.
// Collective.
template <class T>
std::vector<T> JoinRows(Communicator& ring, std::span<const T> mine, int64_t batch,
                        int64_t row_elements, const std::vector<Positions>& positions,
                        int64_t offset);

}  // namespace ringwise
