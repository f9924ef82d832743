#pragma once

#include "kernels/bias.h"
#include "kernels/gemm.h"
#include "transformer/linear.h"

namespace ringwise {

// A linear layer with a bias:  y = x w^T + b.    w [out, in], b [out]
class BiasedLinear {
 public:
  BiasedLinear(Gemm& gemm, Parameter& weight, Parameter& bias, DType compute)
      : context_(gemm.context()), linear_(gemm, {&weight}, compute), bias_(bias) {}

  void WeightsChanged() { linear_.WeightsChanged(); }

  void Forward(ConstTensorView x, TensorView y) {
    linear_.Forward(x, y);
    AddBias(context_, Values(bias_.value), y);
  }
  // y = max(0, x w^T + b)
  void ForwardRelu(ConstTensorView x, TensorView y) {
    linear_.Forward(x, y);
    AddBiasRelu(context_, Values(bias_.value), y);
  }
  // dw += dy^T x, db += sum over rows of dy, into the parameters' gradients; dx = dy w.
  void BackwardWeights(ConstTensorView y_gradient, ConstTensorView x) {
    linear_.BackwardWeights(y_gradient, x);
    AddColumnSums(context_, y_gradient, Values(bias_.gradient));
  }
  void BackwardInput(ConstTensorView y_gradient, TensorView x_gradient) {
    linear_.BackwardInput(y_gradient, x_gradient);
  }

  int64_t outputs() const { return linear_.outputs(); }

 private:
  static std::span<float> Values(const Tensor& tensor) {
    return {tensor.data<float>(), static_cast<size_t>(tensor.elements())};
  }

  Context& context_;
  Linear linear_;
  Parameter& bias_;
};

}  // namespace ringwise
