#pragma once

#include <cstdint>

#include "ringwise/benchmark.h"
#include "ringwise/mask.h"
#include "ringwise/ring_attention.h"
#include "ringwise/tensor.h"

namespace ringwise {

// With kv_seq and kv_heads filled in. Throws UsageError if the shapes do not fit each other.
AttentionProblem WithDefaults(AttentionProblem problem);

// What the queries of a problem see, query i at position i + kv_seq - seq.
Mask MaskOf(const AttentionProblem& problem);

enum class AttentionTensor { kQuery, kKey, kValue, kOutputGradient };

// Fills tensor [batch, rows, heads, head_dim] with numbers of mean 0 and variance 1 that depend on
// the sequence, the global position and which tensor it is: any ring computes the same problem.
void FillByPosition(Context& context, Tensor& tensor, const Positions& positions,
                    AttentionTensor which);

// One rank's tensors of an attention problem, filled by position. Making it and every call are
// collective over the ring.
class AttentionCall {
 public:
  AttentionCall(Context& context, Communicator& ring, const AttentionProblem& problem);

  void Run();                               // what the problem's direction says
  int64_t tiles() const { return tiles_; }  // of the last Run, on this rank

 private:
  AttentionStats Forward();
  AttentionStats Backward();

  Context& context_;
  Communicator& ring_;
  Direction direction_;
  RingAttentionOptions options_;
  Tensor query_, key_, value_, output_, logsumexp_;
  Tensor output_gradient_, query_gradient_, key_gradient_, value_gradient_;
  int64_t tiles_ = 0;
};

// Throws Error if the problem's results at a small length are not within the bounds of
// docs/ring_attention.md of the float64 reference. A collective call over the ring.
void CheckAttentionProblem(Rank& rank, AttentionProblem problem);

}  // namespace ringwise
