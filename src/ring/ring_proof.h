#pragma once

#include <string>

#include "attention/attention_oracle.h"
#include "ring/ring_case_data.h"
#include "ringwise/random.h"

// Proof by random composition: cases drawn over everything attention takes at once, each checked
// against float64, against the ring of one, and against itself. For tests.
namespace ringwise {

// Every option of ringwise/attention_options.h, lengths 0 and 1 and past a tile, head ratios,
// head_dim 1 to 256 and a value_dim of its own, offsets, rings of 1 to 6, every layout of queries
// and of keys, 1 to 3 threads and both types; mostly short, because the oracle is slow.
RingCase DrawCase(Random& random);

// Empty if results of the case hold its bounds, else what does not.
//   f32   those of CheckAttention
//   bf16  tensors of 1000 elements or more: RMS error at most 1.1 times and largest error at most
//         2 times the plain formula's. In smaller ones chance decides between the two, so that
//         their errors are held below what the roundings of the plain formula can add up to.
std::string CheckResults(const RingCaseData& data, const AttentionResults& results,
                         const AttentionOracle& oracle);

struct ProofResult {
  std::string problem;  // empty: all bounds hold
  // f32: the largest difference to the ring of one, in parts of which the bound is 1e-6.
  double forward_from_one = 0;   // output, logsumexp, dv
  double backward_from_one = 0;  // dq, dk, dbias, dsinks
};

// Runs forward and backward. Results must hold CheckResults, and in f32 be within 1e-6 of the ring
// of one on the same scales, times an eighth of the largest logsumexp where that is more than 1. A
// quarter of the cases run twice and must give the same bits; a fifth, if they are small, run with
// the double reference too, which must agree with its ring of one to 1e-12.
ProofResult ProveCase(const RingCase& ring_case);

}  // namespace ringwise
