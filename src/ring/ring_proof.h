#pragma once

#include <cstdint>
#include <string>

#include "ring/ring_case.h"
#include "ringwise/random.h"

// Proof by random composition: cases drawn over everything attention takes at once, each checked
// against float64, against the ring of one, and against itself. For tests.
namespace ringwise {

// Lengths 0 and 1, head ratios, head_dim 1 to 256, rings of 1 to 6, every layout, 1 to 3 threads,
// masks, offsets, scales and both types; mostly short, because the oracle is slow.
RingCase DrawCase(Random& random);

struct ProofResult {
  std::string problem;  // empty: all bounds hold
  // f32: the largest difference to the ring of one, over the scale of its bound.
  double forward_from_one = 0;   // output, logsumexp, dv
  double backward_from_one = 0;  // dq, dk
};

// Runs forward and backward.
//   f32   within the bounds of float64, and 1e-6 of the ring of one on the same scales
//   bf16  tensors of 1000 elements or more: RMS error at most 1.1 times and largest error at most
//         2 times the plain formula's. In smaller ones chance decides between the two, so that
//         their errors are held below what the roundings of the plain formula can add up to.
// A quarter of the cases run twice and must give the same bits.
ProofResult ProveCase(const RingCase& ring_case);

}  // namespace ringwise
