#pragma once

#include "ringwise/benchmark.h"
#include "ringwise/ring_attention.h"
#include "ringwise/tensor.h"

namespace ringwise {

// One rank's tensors of an attention problem, filled with numbers of mean 0 and variance 1 that
// depend on the global position alone, so that any ring computes the same problem.
class AttentionCall {
 public:
  AttentionCall(Rank& rank, const AttentionProblem& problem);

  // Collective calls over the ring. Backward needs a Forward before.
  void Forward();
  void Backward();

  const RingAttentionOptions& options() const { return options_; }
  const Tensor& query() const { return query_; }
  const Tensor& key() const { return key_; }
  const Tensor& value() const { return value_; }
  const Tensor& output() const { return output_; }
  const Tensor& logsumexp() const { return logsumexp_; }
  const Tensor& output_gradient() const { return output_gradient_; }
  const Tensor& query_gradient() const { return query_gradient_; }
  const Tensor& key_gradient() const { return key_gradient_; }
  const Tensor& value_gradient() const { return value_gradient_; }

 private:
  void Fill(Tensor& tensor, const Positions& positions, uint64_t stream);

  Rank& rank_;
  RingAttentionOptions options_;
  Tensor query_, key_, value_, output_, logsumexp_;
  Tensor output_gradient_, query_gradient_, key_gradient_, value_gradient_;
};

// Throws Error if the problem's results at a small length are not within the bounds of
// docs/ring-attention.md of the float64 reference. A collective call over the ring.
void CheckAttentionProblem(Rank& rank, AttentionProblem problem);

}  // namespace ringwise
