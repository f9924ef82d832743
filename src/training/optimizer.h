#pragma once

#include <cstdint>
#include <vector>

#include "kernels/optimizer.h"
#include "ringwise/context.h"
#include "ringwise/llama.h"
#include "ringwise/tensor.h"

namespace ringwise {

// AdamW over all parameters of a model, with f32 moments: the rule is AdamWStep's. Weight decay
// applies to the parameters that decay. Every rank holds all moments and makes the same step.
// Results do not depend on the team's size.
class AdamW {
 public:
  // Moments of zero, in the order of `parameters`, which must outlive this. Of `options` the betas,
  // epsilon and the weight decay are used; the rest is given to each step.
  AdamW(Context& context, std::vector<Parameter>& parameters, const AdamWOptions& options);

  // Square root of the sum of squares of all gradients.
  double GradientNorm() const;
  // Whether every parameter and moment is finite.
  bool IsFinite() const;
  // One step with the gradients times `gradient_scale`. `step` counts from 1: t above.
  void Step(int64_t step, double learning_rate, double gradient_scale);

  std::vector<Tensor>& first_moments() { return first_; }
  std::vector<Tensor>& second_moments() { return second_; }

 private:
  Context& context_;
  std::vector<Parameter>& parameters_;
  AdamWOptions options_;
  std::vector<Tensor> first_;
  std::vector<Tensor> second_;
};

}  // namespace ringwise
