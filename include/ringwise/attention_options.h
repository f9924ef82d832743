#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ringwise/dropout.h"
#include "ringwise/mask.h"
#include "ringwise/tensor.h"

namespace ringwise {

// What one attention call computes, whatever it is cut into. With i a query, j a key and h a head:
//
//   score_ij    = softcap(scale q_i . k_j) - alibi_slope_h |position_i - position_j| + bias_ij
//                 where the mask lets i see j, else -inf;   softcap(x) = cap tanh(x / cap)
//   logsumexp_i = log(sum_j exp(score_ij) + exp(sink_h))
//   output_i    = sum_j exp(score_ij - logsumexp_i) dropout_ij v_j,   dropout_ij = 0 or 1 / (1 - p)
//
// Query head h reads kv_head h * kv_heads / heads. A row that sees nothing: output 0, logsumexp
// -inf or the sink, gradients of query, key, value and bias 0.
//
// Special values. -inf in the bias hides the pair, as the mask does; -inf in a sink is no sink. A
// pair that is hidden or dropped takes nothing of its value, not even NaN; a dropped one is in
// logsumexp all the same. Any other NaN, or +inf in the bias, makes the rows that see it NaN, and
// the gradients that those rows reach; it reaches no other. Scores are f32: one of size s is off by
// about 1e-7 s, and its probability by as much of itself; from s = 1e9 on that may overflow. Values
// and their gradients may be as large as their weighted sums, and a factor of 2^9 more, fit into
// f32. Denormals may count as 0.
struct AttentionOptions {
  std::optional<double> scale = {};  // default head_dim^-1/2; 0 is legal
  Mask mask = {};
  double softcap = 0;                    // 0: none
  std::vector<float> alibi_slopes = {};  // [heads]; empty: none
  Dropout dropout = {};
  // f32 [1 or batch, 1 or heads, 1 or queries, keys]: the queries of this rank in their order, all
  // keys of the whole sequence by position from 0. -inf hides the pair, and so does less than
  // -2.3e38, which is -inf to base 2.
  std::optional<ConstTensorView> bias = {};
  std::optional<ConstTensorView> sinks = {};  // f32 [heads]
};

}  // namespace ringwise
