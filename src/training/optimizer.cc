#include "training/optimizer.h"

#include <cmath>
#include <span>

namespace ringwise {
namespace {

std::span<float> Values(const Tensor& tensor) {
  return {tensor.data<float>(), static_cast<size_t>(tensor.elements())};
}

}  // namespace

AdamW::AdamW(Context& context, std::vector<Parameter>& parameters, const AdamWOptions& options)
    : context_(context), parameters_(parameters), options_(options) {
  for (const Parameter& parameter : parameters) {
    const Shape& shape = parameter.value.shape();
    first_.emplace_back(context.meter, MemoryCategory::kOptimizer, DType::kF32, shape).Zero();
    second_.emplace_back(context.meter, MemoryCategory::kOptimizer, DType::kF32, shape).Zero();
  }
}

double AdamW::GradientNorm() const {
  double sum = 0;
  for (const Parameter& parameter : parameters_) {
    sum += SumOfSquares(context_, Values(parameter.gradient));
  }
  return std::sqrt(sum);
}

bool AdamW::IsFinite() const {
  double sum = 0;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    sum += SumOfSquares(context_, Values(parameters_[p].value));
    sum += SumOfSquares(context_, Values(first_[p]));
    sum += SumOfSquares(context_, Values(second_[p]));
  }
  return std::isfinite(sum);
}

void AdamW::Step(int64_t step, double learning_rate, double gradient_scale) {
  AdamWOptions options = options_;
  options.learning_rate = learning_rate;
  options.gradient_scale = gradient_scale;
  options.step = step;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    Parameter& parameter = parameters_[p];
    options.weight_decay = parameter.decays ? options_.weight_decay : 0;
    AdamWStep(context_, options, Values(parameter.value), Values(parameter.gradient),
              Values(first_[p]), Values(second_[p]));
  }
}

}  // namespace ringwise
