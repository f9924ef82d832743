#pragma once

#include <cstdint>
#include <span>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

struct CrossEntropySum {
  double nats = 0;   // sum over the rows that have a target
  int64_t rows = 0;  // how many those are
};

// loss_i = log sum_j exp(logits_ij) - logits_{i, target_i}
// logits [rows, vocab] f32, contiguous; a negative target means no loss for that row. Rows are
// added in order: any number of threads gives the same bits. A NaN anywhere in a row that counts
// makes the sum NaN. Throws ShapeError, also for a target that is not in the vocabulary.
// Team-parallel.
CrossEntropySum CrossEntropy(Context& context, ConstTensorView logits,
                             std::span<const int32_t> targets);

// The same, and overwrites the logits with gradient_scale * d(sum of losses) / d(logits):
//   gradient_scale (softmax_ij - [j = target_i]), 0 in rows without a target.
CrossEntropySum CrossEntropyWithGradient(Context& context, TensorView logits,
                                         std::span<const int32_t> targets, float gradient_scale);

}  // namespace ringwise
