#pragma once

#include <cstdint>
#include <span>

#include "kernels/gemm.h"
#include "ringwise/classifier.h"
#include "transformer/biased_linear.h"

namespace ringwise {

// The end of a classifier: logits = x W^T + b of each document, and their cross-entropy. x
// [documents, hidden] f32 is the same on every rank of the ring, which all compute it; rank 0 alone
// counts the losses and adds the parameters' gradients, so that the sum over ranks is right.
class ClassHead {
 public:
  ClassHead(Gemm& gemm, Parameter& weight, Parameter& bias)
      : context_(gemm.context()), linear_(gemm, weight, bias, DType::kF32) {}

  void WeightsChanged() { linear_.WeightsChanged(); }
  void Logits(ConstTensorView x, TensorView logits) { linear_.Forward(x, logits); }
  // Writes x_gradient [as x] = gradient_scale d(sum of losses)/dx.
  ClassSum ForwardBackward(ConstTensorView x, std::span<const int32_t> labels, bool counts,
                           float gradient_scale, TensorView x_gradient);

 private:
  Context& context_;
  BiasedLinear linear_;
};

// Rows whose largest value stands at the label; the first of equals counts.
int64_t CountCorrect(ConstTensorView logits, std::span<const int32_t> labels);

}  // namespace ringwise
