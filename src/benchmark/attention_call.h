#pragma once

#include "ringwise/benchmark.h"
#include "ringwise/ring_attention.h"
#include "ringwise/tensor.h"

namespace ringwise {

enum class AttentionTensor { kQuery, kKey, kValue, kOutputGradient };

// Fills tensor [batch, rows, heads, head_dim] with numbers of mean 0 and variance 1 that depend on
// the sequence, the global position and which tensor it is: any ring computes the same problem.
void FillByPosition(Context& context, Tensor& tensor, const Positions& positions,
                    AttentionTensor which);

// One rank's tensors of an attention problem, filled by position.
class AttentionCall {
 public:
  AttentionCall(Rank& rank, const AttentionProblem& problem);

  // Collective calls over the ring. Backward needs a Forward before.
  void Forward();
  void Backward();

 private:
  Rank& rank_;
  RingAttentionOptions options_;
  Tensor query_, key_, value_, output_, logsumexp_;
  Tensor output_gradient_, query_gradient_, key_gradient_, value_gradient_;
};

// Throws Error if the problem's results at a small length are not within the bounds of
// docs/ring_attention.md of the float64 reference. A collective call over the ring.
void CheckAttentionProblem(Rank& rank, AttentionProblem problem);

}  // namespace ringwise
