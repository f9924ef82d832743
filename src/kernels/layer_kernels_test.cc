// The kernels of layers against their formulas in double, at widths around the vector lengths.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cross_entropy.h"
#include "kernels/layer_kernels_fixture.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/swiglu.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

INSTANTIATE_TEST_SUITE_P(Types, LayerKernels, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& type) { return std::string(Name(type.param)); });

TEST_P(LayerKernels, RmsNorm) {
  for (const int64_t width : kWidths) {
    const TensorView x = Random2D(kRows, width, 1.0f);
    const TensorView dy = Random2D(kRows, width, 1.0f);
    const TensorView y = Random2D(kRows, width, 1.0f);
    const TensorView dx = Random2D(kRows, width, 1.0f);
    std::vector<float> weight(width);
    for (float& w : weight) w = 1.0f + 0.3f * random_.Normal();
    std::vector<float> inverse(kRows);
    std::vector<float> weight_gradient(width, 0.5f);
    std::vector<double> expected_weight_gradient(width, 0.5);
    std::vector<double> dx_before(kRows * width);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < width; ++j) dx_before[i * width + j] = Get(dx, i, j);
    }
    RmsNormForward(context_, x, weight, 1e-5f, y, inverse);
    RmsNormBackward(context_, x, weight, inverse, dy, dx, weight_gradient);
    for (int64_t i = 0; i < kRows; ++i) {
      double squares = 0;
      double dot = 0;
      for (int64_t j = 0; j < width; ++j) {
        squares += Get(x, i, j) * Get(x, i, j);
        dot += weight[j] * Get(dy, i, j) * Get(x, i, j);
      }
      const double scale = 1 / std::sqrt(squares / width + 1e-5);
      for (int64_t j = 0; j < width; ++j) {
        const double normal = Get(x, i, j) * scale;
        EXPECT_NEAR(Get(y, i, j), weight[j] * normal,
                    Tolerance(std::abs(weight[j] * normal) + 1e-3));
        const double across = weight[j] * Get(dy, i, j) - normal * scale * dot / width;
        EXPECT_NEAR(Get(dx, i, j), dx_before[i * width + j] + scale * across,
                    Tolerance(std::abs(dx_before[i * width + j]) +
                              scale * (std::abs(weight[j] * Get(dy, i, j)) +
                                       std::abs(normal * scale * dot / width))));
        expected_weight_gradient[j] += Get(dy, i, j) * normal;
      }
    }
    for (int64_t j = 0; j < width; ++j) {
      EXPECT_NEAR(weight_gradient[j], expected_weight_gradient[j], 1e-5);
    }
  }
}

TEST_P(LayerKernels, RotaryTurnsPairsByTheirPositionAndBack) {
  const Positions positions = {{1000003, 2, 1}, {5, 0, 1}, {7, 3, 4}};
  for (const int64_t head_dim : {2, 6, 64, 80}) {
    constexpr double kTheta = 500000;
    constexpr int64_t kHeads = 3;
    const RotaryTable table(context_, positions, head_dim, kTheta);
    const TensorView flat = Random2D(4, kHeads * head_dim, 1.0f);
    TensorView x = flat;
    x.shape = {4, kHeads, head_dim};
    x.strides = {flat.strides[0], head_dim, 1};
    std::vector<double> before;
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t j = 0; j < kHeads * head_dim; ++j) before.push_back(Get(flat, row, j));
    }
    ApplyRotary(context_, table, 1, x);
    for (int64_t row = 0; row < 4; ++row) {
      const auto position = static_cast<double>(At(positions, row + 1));
      for (int64_t j = 0; j < kHeads * head_dim; ++j) {
        const int64_t half = head_dim / 2;
        const int64_t i = j % head_dim;
        const int64_t pair = i % half;
        const double angle = position * std::pow(kTheta, -2.0 * pair / head_dim);
        const int64_t head_begin = row * kHeads * head_dim + j - i;
        const double first = before[head_begin + pair];
        const double second = before[head_begin + half + pair];
        const double expected = i < half ? first * std::cos(angle) - second * std::sin(angle)
                                         : second * std::cos(angle) + first * std::sin(angle);
        EXPECT_NEAR(Get(flat, row, j), expected, Tolerance(std::abs(first) + std::abs(second)));
      }
    }
    ApplyRotaryInverse(context_, table, 1, x);
    for (int64_t row = 0; row < 4; ++row) {
      for (int64_t j = 0; j < kHeads * head_dim; ++j) {
        EXPECT_NEAR(Get(flat, row, j), before[row * kHeads * head_dim + j], Tolerance(6));
      }
    }
    EXPECT_THROW(ApplyRotary(context_, table, 2, x), ShapeError);
  }
}

TEST_P(LayerKernels, SwiGlu) {
  for (const int64_t ffn : kWidths) {
    const TensorView gate_up = Random2D(kRows, 2 * ffn, 3.0f);
    const TensorView hidden = Random2D(kRows, ffn, 1.0f);
    const TensorView d_hidden = Random2D(kRows, ffn, 1.0f);
    Set(gate_up, 0, 0, -120.0f);  // exp(120) is beyond f32
    std::vector<double> before;
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < 2 * ffn; ++j) before.push_back(Get(gate_up, i, j));
    }
    SwiGluForward(context_, gate_up, hidden);
    SwiGluBackward(context_, d_hidden, gate_up);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < ffn; ++j) {
        const double g = before[i * 2 * ffn + j];
        const double u = before[i * 2 * ffn + ffn + j];
        const double s = 1 / (1 + std::exp(-g));
        const double dh = Get(d_hidden, i, j);
        EXPECT_NEAR(Get(hidden, i, j), g * s * u, Tolerance(std::abs(g * s * u) + 1e-3));
        EXPECT_NEAR(Get(gate_up, i, j), dh * u * (s + g * s * (1 - s)),
                    Tolerance(1.1 * std::abs(dh * u) + 1e-3));  // |silu'| < 1.1
        EXPECT_NEAR(Get(gate_up, i, ffn + j), dh * g * s, Tolerance(std::abs(dh * g * s) + 1e-3));
      }
    }
  }
}

TEST(CrossEntropy, LossAndGradient) {
  MemoryMeter meter;
  ThreadTeam team(2);
  Context context{team, meter};
  Random random(5, 0);
  for (const int64_t vocab : kWidths) {
    Tensor logits(meter, MemoryCategory::kWorkspace, DType::kF32, {kRows, vocab});
    for (int64_t i = 0; i < logits.elements(); ++i) logits.data<float>()[i] = 5 * random.Normal();
    logits.data<float>()[0] = 300;  // exp(300) is beyond f32
    std::vector<int32_t> targets(kRows, static_cast<int32_t>(vocab - 1));
    targets[2] = -1;
    const std::vector<float> before(logits.data<float>(), logits.data<float>() + kRows * vocab);
    const CrossEntropySum forward = CrossEntropy(context, logits.view(), targets);
    const CrossEntropySum both = CrossEntropyWithGradient(context, logits.view(), targets, 0.25f);
    EXPECT_EQ(forward.nats, both.nats);
    EXPECT_EQ(both.rows, kRows - 1);
    double expected = 0;
    for (int64_t i = 0; i < kRows; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < vocab; ++j)
        sum += std::exp(static_cast<double>(before[i * vocab + j]));
      if (targets[i] >= 0) expected += std::log(sum) - before[i * vocab + targets[i]];
      for (int64_t j = 0; j < vocab; ++j) {
        const double p = std::exp(static_cast<double>(before[i * vocab + j])) / sum;
        const double gradient = targets[i] < 0 ? 0 : 0.25 * (p - (j == targets[i] ? 1 : 0));
        EXPECT_NEAR(logits.data<float>()[i * vocab + j], gradient, 1e-6);
      }
    }
    EXPECT_NEAR(both.nats, expected, 1e-6 * (1 + std::abs(expected)));
  }
}

TEST(CrossEntropy, DoesNotHideNaNAndChecksTargets) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  for (const int64_t where : {0, 16, 32}) {
    Tensor logits(meter, MemoryCategory::kWorkspace, DType::kF32, {1, 33});
    logits.Zero();
    logits.data<float>()[where] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<int32_t> targets = {5};
    EXPECT_TRUE(std::isnan(CrossEntropy(context, logits.view(), targets).nats));
    const std::vector<int32_t> outside = {33};
    EXPECT_THROW(CrossEntropy(context, logits.view(), outside), ShapeError);
  }
}

}  // namespace
}  // namespace ringwise
