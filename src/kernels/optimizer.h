#pragma once

#include <cstdint>
#include <span>

#include "ringwise/context.h"

namespace ringwise {

// The constants of one AdamW step [arXiv 1711.05101].
struct AdamWOptions {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0;    // decoupled: value -= learning_rate * weight_decay * value
  double gradient_scale = 1;  // the gradient is multiplied by this first: clipping
  int64_t step = 1;           // counts from 1: for the bias corrections
};

// One step on one parameter, as torch.optim.AdamW takes it, with g = gradient_scale * gradient:
//   value         -= learning_rate * weight_decay * value
//   first_moment   = beta1 * first_moment + (1 - beta1) * g
//   second_moment  = beta2 * second_moment + (1 - beta2) * g * g
//   value         -= learning_rate * first_moment / (1 - beta1^step)
//                    / (sqrt(second_moment / (1 - beta2^step)) + epsilon)
// All spans have the same length, else ShapeError. Elementwise: any number of threads gives the
// same bits.
void AdamWStep(Context& context, const AdamWOptions& options, std::span<float> value,
               std::span<const float> gradient, std::span<float> first_moment,
               std::span<float> second_moment);

// Sum of values[i]^2 in double, added in a fixed order: any number of threads gives the same bits.
// A NaN or infinity anywhere makes the result non-finite.
double SumOfSquares(Context& context, std::span<const float> values);

}  // namespace ringwise
