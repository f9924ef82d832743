#pragma once

#include "attention/shard_attention.h"

// Attention's options against the shape of the call. Throw UsageError for a value out of range and
// ShapeError for a tensor that does not fit, naming the argument, what was found and what it may
// be.
namespace ringwise {

// All options but the tensors.
void CheckOptions(const AttentionOptions& options, const AttentionShape& shape);

// What the bias of one rank spans.
struct BiasExtents {
  int64_t rows = 0;       // 1 for all queries, or one for each of the rank's
  int64_t first_key = 0;  // the lowest position of any rank's keys
  int64_t keys = 0;       // one past the highest
};
void CheckBias(const ConstTensorView& bias, const AttentionShape& shape,
               const BiasExtents& extents);
void CheckSinks(const ConstTensorView& sinks, const AttentionShape& shape);

// The gradients of bias and sinks where they are asked for: each only beside its tensor, of the
// same shape.
void CheckOptionGradients(const AttentionGradients& gradients, const AttentionOptions& options);

}  // namespace ringwise
