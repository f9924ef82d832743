#include "training/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace ringwise {
namespace {

constexpr int64_t kPiece = 1 << 15;

// In lanes, so that the compiler may use vectors, in a fixed order.
double SumOfSquares(const float* values, int64_t count) {
  constexpr int64_t kLanes = 8;
  std::array<double, kLanes> lanes{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      lanes[lane] += value * value;
    }
  }
  double sum = 0;
  for (; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
  for (const double lane : lanes) sum += lane;
  return sum;
}

// The step with its constants folded: value = keep value - rate m / (sqrt(v) + epsilon), where the
// bias corrections of both moments are inside rate and epsilon.
struct StepConstants {
  float gradient_scale;
  float beta1;
  float beta2;
  float keep;
  float rate;
  float epsilon;
};

void StepPiece(const StepConstants& c, const float* gradient, float* first, float* second,
               float* value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * c.gradient_scale;
    const float m = c.beta1 * first[i] + (1 - c.beta1) * g;
    const float v = c.beta2 * second[i] + (1 - c.beta2) * g * g;
    first[i] = m;
    second[i] = v;
    value[i] = c.keep * value[i] - c.rate * m / (std::sqrt(v) + c.epsilon);
  }
}

}  // namespace

AdamW::AdamW(Context& context, std::vector<Parameter>& parameters, const AdamWOptions& options)
    : context_(context), parameters_(parameters), options_(options) {
  for (size_t p = 0; p < parameters.size(); ++p) {
    const Shape& shape = parameters[p].value.shape();
    first_.emplace_back(context.meter, MemoryCategory::kOptimizer, DType::kF32, shape).Zero();
    second_.emplace_back(context.meter, MemoryCategory::kOptimizer, DType::kF32, shape).Zero();
    for (int64_t begin = 0; begin < shape.elements(); begin += kPiece) {
      pieces_.push_back({p, begin, std::min(kPiece, shape.elements() - begin)});
    }
  }
}

double AdamW::GradientNorm() const {
  std::vector<double> sums(pieces_.size());
  context_.team.ForEach(static_cast<int64_t>(pieces_.size()), [&](int64_t index, int) {
    const Piece& piece = pieces_[index];
    sums[index] =
        SumOfSquares(parameters_[piece.parameter].gradient.data<float>() + piece.begin, piece.size);
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  return std::sqrt(sum);
}

void AdamW::Step(int64_t step, double learning_rate, double gradient_scale) {
  const double correction1 = 1 - std::pow(options_.beta1, static_cast<double>(step));
  const double correction2 = std::sqrt(1 - std::pow(options_.beta2, static_cast<double>(step)));
  context_.team.ForEach(static_cast<int64_t>(pieces_.size()), [&](int64_t index, int) {
    const Piece& piece = pieces_[index];
    Parameter& parameter = parameters_[piece.parameter];
    const double decay = parameter.decays ? options_.weight_decay : 0;
    const StepConstants constants = {
        .gradient_scale = static_cast<float>(gradient_scale),
        .beta1 = static_cast<float>(options_.beta1),
        .beta2 = static_cast<float>(options_.beta2),
        .keep = static_cast<float>(1 - learning_rate * decay),
        .rate = static_cast<float>(learning_rate * correction2 / correction1),
        .epsilon = static_cast<float>(options_.epsilon * correction2)};
    StepPiece(constants, parameter.gradient.data<float>() + piece.begin,
              first_[piece.parameter].data<float>() + piece.begin,
              second_[piece.parameter].data<float>() + piece.begin,
              parameter.value.data<float>() + piece.begin, piece.size);
  });
}

}  // namespace ringwise
