#include "transformer/output_head.h"

#include <algorithm>
#include <vector>

#include "kernels/convert.h"
#include "kernels/cross_entropy.h"
#include "kernels/rms_norm.h"
#include "transformer/row_blocks.h"

namespace ringwise {
namespace {

// Logits held at a time: 16 MiB, unless the vocabulary is so large that this is fewer rows than
// products need to run fast.
constexpr int64_t kLogits = int64_t{1} << 22;
constexpr int64_t kMinBlockRows = 64;

}  // namespace

OutputHead::OutputHead(Gemm& gemm, const ModelConfig& config, Parameter& norm, Parameter& head,
                       DType compute)
    : context_(gemm.context()),
      compute_(compute),
      hidden_(config.hidden),
      vocab_(config.vocab),
      epsilon_(static_cast<float>(config.rms_norm_eps)),
      norm_(norm),
      linear_(gemm, {&head}, compute) {}

int64_t OutputHead::BlockRows(int64_t rows) const {
  const int64_t fitting = std::max(kMinBlockRows, kLogits / vocab_);
  return std::max<int64_t>(1, std::min({rows, kBlockRows, fitting}));
}

LossSum OutputHead::Forward(ConstTensorView x, std::span<const int32_t> targets) {
  const int64_t rows = x.shape[0];
  const int64_t block = BlockRows(rows);
  Tensor logits(context_.meter, MemoryCategory::kWorkspace, DType::kF32, {block, vocab_});
  LossSum loss;
  ForEachRowBlock(rows, block, [&](int64_t begin, int64_t count) {
    const TensorView part = logits.view().Slice(0, 0, count);
    Logits(x.Slice(0, begin, count), part);
    const CrossEntropySum sum = CrossEntropy(context_, part, targets.subspan(begin, count));
    loss.nats += sum.nats;
    loss.tokens += sum.rows;
  });
  return loss;
}

LossSum OutputHead::ForwardBackward(ConstTensorView x, std::span<const int32_t> targets,
                                    float gradient_scale, TensorView x_gradient) {
  const int64_t rows = x.shape[0];
  const int64_t block = BlockRows(rows);
  const auto make = [&](DType dtype, int64_t columns) {
    return Tensor(context_.meter, MemoryCategory::kWorkspace, dtype, {block, columns});
  };
  Tensor logits = make(DType::kF32, vocab_);
  Tensor rounded;
  if (compute_ != DType::kF32) rounded = make(compute_, vocab_);
  Tensor normed = make(compute_, hidden_);
  Tensor normed_gradient = make(compute_, hidden_);
  std::vector<float> inverse_rms(static_cast<size_t>(block));
  const std::span<const float> gain(norm_.value.data<float>(), static_cast<size_t>(hidden_));
  const std::span<float> gain_gradient(norm_.gradient.data<float>(), gain.size());
  LossSum loss;
  ForEachRowBlock(rows, block, [&](int64_t begin, int64_t count) {
    const ConstTensorView x_rows = x.Slice(0, begin, count);
    const TensorView gradient = x_gradient.Slice(0, begin, count);
    const TensorView normed_rows = normed.view().Slice(0, 0, count);
    const TensorView logit_rows = logits.view().Slice(0, 0, count);
    const TensorView change = normed_gradient.view().Slice(0, 0, count);
    const std::span<float> rms(inverse_rms.data(), static_cast<size_t>(count));
    RmsNormForward(context_, x_rows, gain, epsilon_, normed_rows, rms);
    linear_.Forward(normed_rows, logit_rows);
    const CrossEntropySum sum = CrossEntropyWithGradient(
        context_, logit_rows, targets.subspan(begin, count), gradient_scale);
    loss.nats += sum.nats;
    loss.tokens += sum.rows;
    TensorView logit_change = logit_rows;
    if (rounded) {
      logit_change = rounded.view().Slice(0, 0, count);
      Convert(context_, logit_rows, logit_change);
    }
    linear_.BackwardWeights(logit_change, normed_rows);
    linear_.BackwardInput(logit_change, change);
    std::fill_n(static_cast<std::byte*>(gradient.memory),
                gradient.elements() * static_cast<int64_t>(SizeOf(compute_)), std::byte{0});
    RmsNormBackward(context_, x_rows, gain, rms, change, gradient, gain_gradient);
  });
  return loss;
}

void OutputHead::Logits(ConstTensorView x, TensorView logits) {
  const int64_t rows = x.shape[0];
  Tensor normed(context_.meter, MemoryCategory::kWorkspace, compute_, {rows, hidden_});
  std::vector<float> inverse_rms(static_cast<size_t>(rows));
  RmsNormForward(context_, x, {norm_.value.data<float>(), static_cast<size_t>(hidden_)}, epsilon_,
                 normed.view(), inverse_rms);
  linear_.Forward(normed.view(), logits);
}

}  // namespace ringwise
