#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/context.h"
#include "ringwise/llama.h"
#include "ringwise/tensor.h"

namespace ringwise {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  // of parameters that decay, by learning_rate x weight_decay a step
};

// AdamW [arXiv 1711.05101] with f32 moments, as PyTorch's:
//   value *= 1 - rate decay;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   value -= rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)
// Every rank holds all moments and makes the same step. Results do not depend on the team's size.
class AdamW {
 public:
  // Moments of zero, in the order of `parameters`, which must outlive this.
  AdamW(Context& context, std::vector<Parameter>& parameters, const AdamWOptions& options);

  // Square root of the sum of squares of all gradients.
  double GradientNorm() const;
  // One step with the gradients times `gradient_scale`. `step` counts from 1: t above.
  void Step(int64_t step, double learning_rate, double gradient_scale);

  std::vector<Tensor>& first_moments() { return first_; }
  std::vector<Tensor>& second_moments() { return second_; }

 private:
  // A part of one parameter, small enough to share out evenly.
  struct Piece {
    size_t parameter;
    int64_t begin;
    int64_t size;
  };

  Context& context_;
  std::vector<Parameter>& parameters_;
  AdamWOptions options_;
  std::vector<Tensor> first_;
  std::vector<Tensor> second_;
  std::vector<Piece> pieces_;
};

}  // namespace ringwise
