#include "transformer/class_head.h"

#include <algorithm>

#include "kernels/cross_entropy.h"

namespace ringwise {

int64_t CountCorrect(ConstTensorView logits, std::span<const int32_t> labels) {
  int64_t correct = 0;
  for (int64_t row = 0; row < logits.shape[0]; ++row) {
    const float* const values = logits.at<float>(row);
    correct += std::max_element(values, values + logits.shape[1]) - values == labels[row] ? 1 : 0;
  }
  return correct;
}

ClassSum ClassHead::ForwardBackward(ConstTensorView x, std::span<const int32_t> labels, bool counts,
                                    float gradient_scale, TensorView x_gradient) {
  Tensor logits(context_.meter, MemoryCategory::kWorkspace, DType::kF32,
                {x.shape[0], linear_.outputs()});
  Logits(x, logits.view());
  ClassSum sum;
  if (counts) {
    sum.correct = CountCorrect(logits.view(), labels);
    sum.documents = x.shape[0];
  }
  const CrossEntropySum loss =
      CrossEntropyWithGradient(context_, logits.view(), labels, gradient_scale);
  if (counts) {
    sum.nats = loss.nats;
    linear_.BackwardWeights(logits.view(), x);
  }
  linear_.BackwardInput(logits.view(), x_gradient);
  return sum;
}

}  // namespace ringwise
