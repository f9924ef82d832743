#include "training/optimizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr int kSteps = 5;
constexpr uint64_t kSeed = 11;

// A matrix longer than a piece of the work, and a norm that does not decay.
std::vector<Parameter> MakeParameters(MemoryMeter& meter) {
  std::vector<Parameter> parameters;
  const std::vector<std::pair<Shape, bool>> kinds = {{Shape{250, 301}, true}, {Shape{37}, false}};
  for (const auto& [shape, decays] : kinds) {
    Parameter parameter{.name = fmt::format("p{}", parameters.size()),
                        .value = Tensor(meter, MemoryCategory::kParameters, DType::kF32, shape),
                        .gradient = Tensor(meter, MemoryCategory::kGradients, DType::kF32, shape),
                        .decays = decays};
    Random random(kSeed, parameters.size());
    for (int64_t i = 0; i < shape.elements(); ++i) {
      parameter.value.data<float>()[i] = random.Normal();
    }
    parameters.push_back(std::move(parameter));
  }
  return parameters;
}

void SetGradients(std::vector<Parameter>& parameters, int step) {
  Random random(kSeed, 100 + step);
  for (Parameter& parameter : parameters) {
    for (int64_t i = 0; i < parameter.gradient.elements(); ++i) {
      // Some exact zeros, some tiny: where the epsilon matters.
      const float size = i % 7 == 0 ? 0.0f : (i % 11 == 0 ? 1e-9f : 0.1f);
      parameter.gradient.data<float>()[i] = size * random.Normal();
    }
  }
}

double RateOf(int step) { return 1e-2 / (1 + step); }

// The published rule in double, one element at a time.
TEST(AdamW, MatchesTheRuleInDouble) {
  const AdamWOptions options = {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};
  constexpr double kScale = 0.37;
  MemoryMeter meter;
  ThreadTeam team(2);
  Context context{team, meter};
  std::vector<Parameter> parameters = MakeParameters(meter);
  std::vector<std::vector<double>> values;
  for (const Parameter& p : parameters) {
    values.emplace_back(p.value.data<float>(), p.value.data<float>() + p.value.elements());
  }
  auto first = values;
  auto second = values;
  for (auto& moments : first) std::fill(moments.begin(), moments.end(), 0.0);
  for (auto& moments : second) std::fill(moments.begin(), moments.end(), 0.0);

  AdamW optimizer(context, parameters, options);
  for (int step = 1; step <= kSteps; ++step) {
    SetGradients(parameters, step);
    double squares = 0;
    for (size_t p = 0; p < parameters.size(); ++p) {
      for (size_t i = 0; i < values[p].size(); ++i) {
        const double raw = parameters[p].gradient.data<float>()[i];
        squares += raw * raw;
        const double g = raw * kScale;
        double& m = first[p][i];
        double& v = second[p][i];
        double& x = values[p][i];
        x *= 1 - RateOf(step) * (parameters[p].decays ? options.weight_decay : 0);
        m = options.beta1 * m + (1 - options.beta1) * g;
        v = options.beta2 * v + (1 - options.beta2) * g * g;
        const double m_hat = m / (1 - std::pow(options.beta1, step));
        const double v_hat = v / (1 - std::pow(options.beta2, step));
        x -= RateOf(step) * m_hat / (std::sqrt(v_hat) + options.epsilon);
      }
    }
    EXPECT_NEAR(optimizer.GradientNorm() / std::sqrt(squares), 1, 1e-12);
    optimizer.Step(step, RateOf(step), kScale);
  }
  // A step rounds the value twice, and the moments' relative errors move it by rate x a few
  // epsilons: the sum over the steps stays below the bound for |x| up to 5.
  constexpr double kEpsilon = 0x1p-24;
  for (size_t p = 0; p < parameters.size(); ++p) {
    for (size_t i = 0; i < values[p].size(); ++i) {
      const double x = values[p][i];
      const double bound = kSteps * kEpsilon * (2 * std::abs(x) + 0.2);
      ASSERT_NEAR(parameters[p].value.data<float>()[i], x, bound) << p << " " << i;
    }
  }
}

TEST(AdamW, GivesTheSameBitsForAnyTeam) {
  std::vector<std::vector<float>> results;
  std::vector<double> norms;
  for (const int threads : {1, 2, 3}) {
    MemoryMeter meter;
    ThreadTeam team(threads);
    Context context{team, meter};
    std::vector<Parameter> parameters = MakeParameters(meter);
    AdamW optimizer(context, parameters, {});
    for (int step = 1; step <= kSteps; ++step) {
      SetGradients(parameters, step);
      norms.push_back(optimizer.GradientNorm());
      optimizer.Step(step, RateOf(step), 1.0);
    }
    const Tensor& value = parameters[0].value;
    results.emplace_back(value.data<float>(), value.data<float>() + value.elements());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  for (size_t i = 0; i < norms.size(); ++i) EXPECT_EQ(norms[i], norms[i % kSteps]);
}

TEST(AdamW, AGradientThatIsNotFiniteShowsInTheNorm) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  std::vector<Parameter> parameters = MakeParameters(meter);
  AdamW optimizer(context, parameters, {});
  SetGradients(parameters, 1);
  parameters[1].gradient.data<float>()[36] = std::nanf("");
  EXPECT_FALSE(std::isfinite(optimizer.GradientNorm()));
  parameters[1].gradient.data<float>()[36] = INFINITY;
  EXPECT_FALSE(std::isfinite(optimizer.GradientNorm()));
}

TEST(AdamW, SaysWhetherItsValuesAndMomentsAreFinite) {
  MemoryMeter meter;
  ThreadTeam team(2);
  Context context{team, meter};
  std::vector<Parameter> parameters = MakeParameters(meter);
  AdamW optimizer(context, parameters, {});
  SetGradients(parameters, 1);
  optimizer.Step(1, 1e-3, 1.0);
  EXPECT_TRUE(optimizer.IsFinite());
  float* const last[] = {parameters[1].value.data<float>() + 36,
                         optimizer.first_moments()[1].data<float>() + 36,
                         optimizer.second_moments()[1].data<float>() + 36};
  for (float* value : last) {
    const float before = *value;
    *value = std::numeric_limits<float>::max();
    EXPECT_TRUE(optimizer.IsFinite());
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      *value = bad;
      EXPECT_FALSE(optimizer.IsFinite());
    }
    *value = before;
  }
}

}  // namespace
}  // namespace ringwise
