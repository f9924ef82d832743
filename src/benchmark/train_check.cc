#include "benchmark/train_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/llama.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr double kTheta = 10000;
constexpr int64_t kContext = 67;
constexpr uint64_t kSeed = 11;

int32_t TokenAt(int64_t position, int64_t vocab) {
  Random random(kSeed, static_cast<uint64_t>(position));
  return static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab)));
}

ModelConfig Small(const ModelConfig& model) {
  ModelConfig small = model;
  small.kv_heads = 1;
  small.heads = model.heads / model.kv_heads;
  small.layers = std::min<int64_t>(model.layers, 2);
  small.hidden = 48;
  small.ffn = 80;
  small.max_positions = kContext;
  return small;
}

// A model and its one sequence.
class Example {
 public:
  Example(Rank& rank, const ModelConfig& config, DType dtype, Layout layout)
      : ring_(rank.ring), model_(rank.context, config, dtype) {
    model_.Initialize(kSeed);
    for (int r = 0; r < ring_.size(); ++r) {
      batch_.positions.push_back(ShardPositions(layout, kContext, ring_.size(), r));
    }
    const Positions& mine = batch_.positions[static_cast<size_t>(ring_.rank())];
    for (int64_t i = 0; i < Count(mine); ++i) {
      tokens_.push_back(TokenAt(At(mine, i), config.vocab));
      targets_.push_back(TokenAt(At(mine, i) + 1, config.vocab));
    }
    batch_.batch = 1;
    batch_.tokens = tokens_;
    batch_.targets = targets_;
  }

  // Of every parameter, one after the other.
  std::vector<float> Gradient() {
    model_.ParametersChanged();
    model_.ZeroGradients();
    model_.ForwardBackward(ring_, batch_, kTheta, Recompute::kNone, 1);
    std::vector<float> gradient;
    for (const Parameter& parameter : model_.parameters()) {
      const float* begin = parameter.gradient.data<float>();
      gradient.insert(gradient.end(), begin, begin + parameter.gradient.elements());
    }
    ring_.AllReduceSum(std::span<float>(gradient));
    return gradient;
  }

  // After parameters += step * direction.
  double LossAfter(double step, std::span<const float> direction) {
    size_t at = 0;
    for (Parameter& parameter : model_.parameters()) {
      float* const values = parameter.value.data<float>();
      for (int64_t i = 0; i < parameter.value.elements(); ++i) {
        values[i] += static_cast<float>(step * direction[at++]);
      }
    }
    model_.ParametersChanged();
    double nats = model_.Forward(ring_, batch_, kTheta).nats;
    ring_.AllReduceSum(std::span<double>(&nats, 1));
    return nats;
  }

 private:
  Communicator& ring_;
  Llama model_;
  TokenBatch batch_;
  std::vector<int32_t> tokens_, targets_;
};

double Length(std::span<const float> values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return std::sqrt(squares);
}

}  // namespace

void CheckTraining(Rank& rank, const TrainBenchmark& benchmark, Layout layout) {
  const ModelConfig config = Small(benchmark.model);
  Example exact(rank, config, DType::kF32, layout);
  const std::vector<float> gradient = exact.Gradient();
  const double length = Length(gradient);
  // Along the gradient the slope is its squared length. The step is a compromise between the
  // loss's curvature and its rounding, 1e-7 of 400 nats.
  constexpr double kChange = 0.05;  // of the loss, in nats
  constexpr double kSlopeError = 0.02;
  const double step = kChange / (length * length);
  const double above = exact.LossAfter(step, gradient);
  const double below = exact.LossAfter(-2 * step, gradient);
  const double slope = (above - below) / (2 * kChange);  // 1 if right
  if (!(std::abs(slope - 1) <= kSlopeError)) {
    throw Error(fmt::format(
        "training is wrong, nothing was timed: the loss changes by {} times what its gradient says",
        slope));
  }
  if (benchmark.dtype == DType::kF32) return;
  constexpr double kBf16Error = 0.05;
  std::vector<float> difference = Example(rank, config, benchmark.dtype, layout).Gradient();
  for (size_t i = 0; i < difference.size(); ++i) difference[i] -= gradient[i];
  const double error = Length(difference) / length;
  if (!(error <= kBf16Error)) {
    throw Error(
        fmt::format("training is wrong, nothing was timed: the gradient in bf16 is {} of its "
                    "length off that in f32",
                    error));
  }
}

}  // namespace ringwise
