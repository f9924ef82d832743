#pragma once

#include <optional>
#include <string>
#include <vector>

#include "attention/shard_attention.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

// The oracle of every attention test: the definition of shard_attention.h over whole tensors, in
// double, one score row at a time, with no tiles, blocks or merging in it. For tests only.
namespace ringwise {

struct AttentionCase {
  AttentionOptions options;
  Positions query_positions;
  Positions key_positions;
  ConstTensorView query;                           // [batch, q_len, heads, head_dim]
  ConstTensorView key;                             // [batch, kv_len, kv_heads, head_dim]
  ConstTensorView value;                           // as key
  std::optional<ConstTensorView> output_gradient;  // as query; without it no gradients
};

// Contiguous, in the order of the tensors they are compared with.
struct AttentionOracle {
  std::vector<double> output;
  std::vector<double> logsumexp;
  std::vector<double> dq, dk, dv;
  // The sums of absolute terms of dq and dk: gradients may cancel to almost nothing, and then they
  // are no scale of their own.
  //   dq_i: scale sum_j P_ij (|dP_ij| + sum_l P_il |dP_il|) |k_j|
  //   dk_j: scale sum_i P_ij (|dP_ij| + sum_l P_il |dP_il|) |q_i|
  std::vector<double> dq_terms, dk_terms;
};

AttentionOracle ComputeAttentionOracle(const AttentionCase& attention_case);

// The same formula as it is plainly computed in bfloat16: operands of products rounded to bf16,
// sums in f32, results rounded once to bf16 (logsumexp stays f32). Its error is the yardstick for
// bf16 kernels.
AttentionOracle ComputePlainBf16Attention(const AttentionCase& attention_case);

// Elements in row order as doubles.
std::vector<double> ToDoubles(ConstTensorView view);

// Largest |actual - expected|: equal infinities differ by 0; infinity if lengths differ or either
// has a NaN.
double LargestError(const std::vector<double>& actual, const std::vector<double>& expected);
double RmsError(const std::vector<double>& actual, const std::vector<double>& expected);
double LargestMagnitude(const std::vector<double>& values);  // of the finite ones

// What was computed, to be checked against the oracle. Unset gradients are not checked.
struct AttentionResults {
  std::vector<double> output;
  std::vector<double> logsumexp;
  std::vector<double> dq, dk, dv;
};

// The bounds every f32 result must hold, as multiples of the scales of `oracle`:
//   output, logsumexp, dv: `forward` x the largest magnitude of the tensor
//   dq, dk:                `backward` x the largest sum of absolute terms
struct AttentionBounds {
  double forward = 1e-5;
  double backward = 2e-6;
};
// Empty if `results` are within the bounds of `expected`; else which tensor is not, and by how
// much. The scales are `oracle`'s, so that two computed results can be compared on the same scales.
std::string CheckAttention(const AttentionResults& results, const AttentionResults& expected,
                           const AttentionOracle& oracle, const AttentionBounds& bounds);
AttentionResults Results(const AttentionOracle& oracle);

}  // namespace ringwise
