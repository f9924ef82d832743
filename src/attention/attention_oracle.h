#pragma once

#include <optional>
#include <string>
#include <vector>

#include "attention/comparison.h"
#include "ringwise/attention_options.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

// The oracle of every attention test: the definition of ringwise/attention_options.h over whole
// tensors, in double, one score row at a time, with no tiles, blocks or merging in it. For tests
// only.
namespace ringwise {

struct AttentionCase {
  AttentionOptions options;  // the bias with a row for each query, a column for each key position
  Positions query_positions;
  Positions key_positions;
  ConstTensorView query;                                   // [batch, q_len, heads, head_dim]
  ConstTensorView key;                                     // [batch, kv_len, kv_heads, head_dim]
  ConstTensorView value;                                   // [batch, kv_len, kv_heads, value_dim]
  std::optional<ConstTensorView> output_gradient = {};     // as the output; none: no gradients
  std::optional<ConstTensorView> logsumexp_gradient = {};  // [batch, heads, q_len] f32; none: zeros
};

// Contiguous, in the order of the tensors they stand for. Gradients that were not asked for, and
// those of a bias or sinks that the case does not have, are empty.
struct AttentionResults {
  std::vector<double> output;
  std::vector<double> logsumexp;
  std::vector<double> dq, dk, dv;
  std::vector<double> dbias = {}, dsinks = {};
};

// With x_ij = scale q_i . k_j, slope_ij = softcap'(x_ij), dP_ij = dropout_ij dout_i . v_j,
// delta_i = sum_l P_il dP_il (the sink has no value) and P_i,sink = exp(sink - logsumexp_i):
//
//   dS_ij  = P_ij (dP_ij - delta_i + dlogsumexp_i)
//   dq_i   = scale sum_j slope_ij dS_ij k_j         dk_j = scale sum_i slope_ij dS_ij q_i
//   dbias  = dS, summed over what it is broadcast   dv_j = sum_i P_ij dropout_ij dout_i
//   dsink  = sum_i P_i,sink (dlogsumexp_i - delta_i), over the sequences too
//
// Such sums may cancel to almost nothing, and then they are no scale of their own. The terms are
// what they come to when nothing cancels: with
//   T_ij = P_ij (|dP_ij| + sum_l P_il |dP_il| + |dlogsumexp_i|)    in the place of dS_ij, and
//   P_i,sink (sum_l P_il |dP_il| + |dlogsumexp_i|)                 for a row of the sink,
// and magnitudes of scale, k and q. slope_ij is a factor, not a difference, and stays. Those of
// output and dv are sum_j P_ij dropout_ij |v_j| and sum_i P_ij dropout_ij |dout_i|.
struct AttentionOracle : AttentionResults {
  std::vector<double> dq_terms, dk_terms, dbias_terms, dsinks_terms;
  std::vector<double> output_terms, dv_terms;
};

AttentionOracle ComputeAttentionOracle(const AttentionCase& attention_case);

// The same formula as it is plainly computed in bfloat16: operands of products rounded to bf16
// (probabilities after dropout), sums and score terms in f32, results rounded once to bf16
// (logsumexp stays f32). Its error is the yardstick for bf16 kernels.
AttentionOracle ComputePlainBf16Attention(const AttentionCase& attention_case);

// The bounds every f32 result must hold, as multiples of the scales of `oracle`:
//   output, logsumexp, dv:  `forward` x the largest magnitude of the tensor
//   dq, dk, dbias, dsinks:  `backward` x the largest sum of absolute terms
struct AttentionBounds {
  double forward = 1e-5;
  double backward = 2e-6;
};
// Empty if `results` are within the bounds of `expected`; else which tensor is not, and by how
// much. The scales are `oracle`'s, so that two computed results can be compared on the same scales.
// Gradients are not checked where `expected` has none at all.
std::string CheckAttention(const AttentionResults& results, const AttentionResults& expected,
                           const AttentionOracle& oracle, const AttentionBounds& bounds);

// The tensors of results with the scale each is measured on.
struct MeasuredTensor {
  const char* name;
  std::vector<double> AttentionResults::*tensor;
  std::vector<double> AttentionOracle::*scale;  // its largest magnitude
  std::vector<double> AttentionOracle::*terms;  // sums of absolute terms, or the tensor itself
  bool cancels;                                 // measured by its terms, `backward` its bound
};
const std::vector<MeasuredTensor>& MeasuredTensors();

}  // namespace ringwise
