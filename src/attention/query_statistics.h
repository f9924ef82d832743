#pragma once

#include "attention/shard_attention.h"
#include "ringwise/context.h"
#include "ringwise/memory.h"

namespace ringwise {

// What backward needs to know of each row of one rank's queries beside the row itself. Adds 8 bytes
// a row and head (activations). `saved` must outlive it.
class QueryStatistics {
 public:
  QueryStatistics(Context& context, const AttentionShape& shape, const AttentionSaved& saved);

  // [batch, heads, q_len], to base 2; rows that see nothing: +inf, so that p = 2^-inf = 0 whatever
  // their scores.
  const float* logsumexp() const { return logsumexp_.as<float>(); }
  // [batch, heads, q_len]: rowsum(dO * O) - dlogsumexp; 0 in rows that see nothing.
  const float* delta() const { return delta_.as<float>(); }

  // sink_gradients[head] = sum over these rows of -exp(sink - logsumexp) delta, in row order.
  void SumSinkGradients(const ConstTensorView& sinks, const TensorView& sink_gradients) const;

 private:
  template <class Input, class Output>
  void Prepare(int64_t batch, int64_t row, int64_t head);

  Context& context_;
  const AttentionShape shape_;
  const AttentionSaved saved_;
  const int64_t q_len_;
  Buffer logsumexp_, delta_;
};

}  // namespace ringwise
