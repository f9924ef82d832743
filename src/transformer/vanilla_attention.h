#pragma once

#include "kernels/gemm.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

// Softmax attention as it is written down, on one rank: what the other designs are measured
// against. With D what dropout leaves, 0 or 1 / (1 - p):
//
//   S = q k^T;  P = softmax(scale S), 0 where the mask hides;  output = (P o D) v
//
// The probabilities P of every pair exist at once and are what backward needs. Products, softmax
// and the gradient's dP go a block of rows at a time, so P is all that grows with the square.
//
// probabilities [batch, heads, q_len, kv_len], contiguous, of the inputs' type. Of the options
// mask, scale and dropout count; the positions are those of ring rank 0. Positions on which a query
// sees nothing give output 0. Every head's products run on the whole team.
void VanillaAttentionForward(Gemm& gemm, const RingAttentionOptions& options,
                             const AttentionInputs& inputs, TensorView probabilities,
                             TensorView output);

// With forward's inputs and probabilities:
//   dv = (P o D)^T dO;  dP = D o (dO v^T);  dS = scale P o (dP - rowsum(P o dP))
//   dq = dS k;  dk = dS^T q
void VanillaAttentionBackward(Gemm& gemm, const RingAttentionOptions& options,
                              const AttentionInputs& inputs, ConstTensorView probabilities,
                              ConstTensorView output_gradient, const AttentionGradients& gradients);

}  // namespace ringwise
