#pragma once

#include <cstdint>
#include <span>

#include "kernels/gemm.h"
#include "ringwise/llama.h"
#include "transformer/linear.h"

namespace ringwise {

// The end of the model: logits = N(x) W^T, and their cross-entropy, a few rows at a time: logits of
// all rows never exist. x [rows, hidden].
class OutputHead {
 public:
  OutputHead(Gemm& gemm, const ModelConfig& config, Parameter& norm, Parameter& head,
             DType compute);

  void WeightsChanged() { linear_.WeightsChanged(); }

  LossSum Forward(ConstTensorView x, std::span<const int32_t> targets);
  // The same; writes x_gradient [as x] = gradient_scale d(sum of losses)/dx and adds the
  // parameters' gradients.
  LossSum ForwardBackward(ConstTensorView x, std::span<const int32_t> targets, float gradient_scale,
                          TensorView x_gradient);
  // logits [rows, vocab] f32 of a few rows.
  void Logits(ConstTensorView x, TensorView logits);

 private:
  int64_t BlockRows(int64_t rows) const;

  Context& context_;
  DType compute_;
  int64_t hidden_;
  int64_t vocab_;
  float epsilon_;
  Parameter& norm_;
  Linear linear_;
};

}  // namespace ringwise
