// The kernels of an encoder's layers against their formulas in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kernels/activation_dropout.h"
#include "kernels/bias.h"
#include "kernels/layer_kernels_fixture.h"
#include "kernels/layer_norm.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr double kUnit = 0x1p-24;  // the largest relative error of one f32 rounding

class EncoderKernels : public LayerKernels {
 protected:
  // The bound for a value that is stored after `roundings` of f32 on terms that sum up to
  // `magnitude`, with one more of the storage type: 2^-8 of bf16. A hundredth over for the second
  // order.
  double Bound(double magnitude, double roundings) const {
    const double stored = GetParam() == DType::kF32 ? kUnit : 0x1p-8;
    return 1.01 * magnitude * (roundings * kUnit + stored);
  }
  // The f32 sum of two values of the storage type, as it is stored: exact to the bit, since the sum
  // of two floats in double rounds to float as their sum does.
  static float Stored(DType dtype, double value) {
    const auto rounded = static_cast<float>(value);
    return dtype == DType::kF32 ? rounded : static_cast<float>(bf16(rounded));
  }
  static std::vector<double> Values(const ConstTensorView& view) {
    std::vector<double> values;
    for (int64_t i = 0; i < view.shape[0]; ++i) {
      for (int64_t j = 0; j < view.shape[1]; ++j) values.push_back(Get(view, i, j));
    }
    return values;
  }
  static std::vector<double> Magnitudes(std::vector<double> values) {
    for (double& value : values) value = std::abs(value);
    return values;
  }
  // What stands between the rows of a Random2D view, which no kernel may touch.
  static std::vector<double> Gaps(TensorView view) {
    const int64_t width = view.shape[1];
    view.shape = {view.shape[0], width + 3};
    return Values(view.Slice(1, width, 3));
  }
  std::vector<float> RandomVector(int64_t size, float mean, float scale) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = mean + scale * random_.Normal();
    return values;
  }
};

INSTANTIATE_TEST_SUITE_P(Types, EncoderKernels, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& type) { return std::string(Name(type.param)); });

TEST_P(EncoderKernels, AddBiasWithAndWithoutRelu) {
  for (const int64_t width : kWidths) {
    for (const bool relu : {false, true}) {
      const TensorView y = Random2D(kRows, width, 1);
      const std::vector<double> before = Values(y);
      const std::vector<double> gaps = Gaps(y);
      const std::vector<float> bias = RandomVector(width, 0, 1);
      relu ? AddBiasRelu(context_, bias, y) : AddBias(context_, bias, y);
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          const double sum = before[i * width + j] + bias[j];
          EXPECT_EQ(Get(y, i, j), Stored(GetParam(), relu ? std::max(0.0, sum) : sum));
        }
      }
      EXPECT_EQ(Gaps(y), gaps);
    }
  }
}

TEST_P(EncoderKernels, BiasesDoNotHideNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t where : {0, 15, 16, 32}) {
    const TensorView y = Random2D(1, 33, 1);
    Set(y, 0, where, nan);
    AddBias(context_, std::vector<float>(33, 1.0f), y);
    EXPECT_TRUE(std::isnan(Get(y, 0, where)));
    AddBiasRelu(context_, std::vector<float>(33, 1.0f), y);
    EXPECT_TRUE(std::isnan(Get(y, 0, where)));
    EXPECT_FALSE(std::isnan(Get(y, 0, (where + 1) % 33)));
    const TensorView dy = Random2D(1, 33, 1);
    Set(dy, 0, where, nan);
    ReluBackward(context_, y, dy);
    EXPECT_TRUE(std::isnan(Get(dy, 0, where)));
  }
}

TEST_P(EncoderKernels, ReluBackwardStopsWhereReluDid) {
  for (const int64_t width : kWidths) {
    const TensorView y = Random2D(kRows, width, 1);
    AddBiasRelu(context_, std::vector<float>(static_cast<size_t>(width), 0.1f), y);
    const TensorView dy = Random2D(kRows, width, 1);
    const std::vector<double> before = Values(dy);
    const std::vector<double> gaps = Gaps(dy);
    ReluBackward(context_, y, dy);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        EXPECT_EQ(Get(dy, i, j), Get(y, i, j) > 0 ? before[i * width + j] : 0);
      }
    }
    EXPECT_EQ(Gaps(dy), gaps);
  }
}

TEST_P(EncoderKernels, AddColumnSums) {
  constexpr int64_t kManyRows = 37;
  for (const int64_t width : kWidths) {
    const TensorView dy = Random2D(kManyRows, width, 1);
    const std::vector<float> before = RandomVector(width, 0, 1);
    std::vector<float> sums = before;
    AddColumnSums(context_, dy, sums);
    for (int64_t j = 0; j < width; ++j) {
      double sum = before[j];
      double magnitude = std::abs(before[j]);
      for (int64_t i = 0; i < kManyRows; ++i) {
        sum += Get(dy, i, j);
        magnitude += std::abs(Get(dy, i, j));
      }
      EXPECT_NEAR(sums[j], sum, kManyRows * kUnit * magnitude);  // an addition a row
    }
  }
}

TEST_P(EncoderKernels, BiasesRefuseOtherShapes) {
  const TensorView y = Random2D(kRows, 7, 1);
  std::vector<float> short_bias(6);
  EXPECT_THROW(AddBias(context_, short_bias, y), ShapeError);
  EXPECT_THROW(AddBiasRelu(context_, short_bias, y), ShapeError);
  EXPECT_THROW(AddColumnSums(context_, y, short_bias), ShapeError);
  EXPECT_THROW(ReluBackward(context_, y, Random2D(kRows, 8, 1)), ShapeError);
}

// Rows whose mean is far larger than their deviation: the mean of squares less the square of the
// mean would have no digit left.
TEST_P(EncoderKernels, RowMoments) {
  for (const int64_t width : kWidths) {
    const TensorView x = Random2D(kRows, width, 1, 1000);
    std::vector<float> mean(kRows);
    std::vector<float> deviations(kRows);
    RowMoments(context_, x, mean, deviations);
    for (int64_t i = 0; i < kRows; ++i) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t j = 0; j < width; ++j) {
        sum += Get(x, i, j);
        magnitude += std::abs(Get(x, i, j));
      }
      const auto size = static_cast<double>(width);
      const double mean_bound = (size + 1) * kUnit * magnitude / size;
      EXPECT_NEAR(mean[i], sum / size, mean_bound);
      double squares = 0;
      for (int64_t j = 0; j < width; ++j) squares += std::pow(Get(x, i, j) - sum / size, 2);
      // About another mean, `size` times its square distance more; a difference, a square and the
      // additions.
      EXPECT_NEAR(deviations[i], squares,
                  size * mean_bound * mean_bound + (size + 3) * kUnit * squares);
    }
  }
}

// A norm of random rows: with the rows' own statistics or, as a document's, with others, and with
// one row of weights or several.
struct NormCase {
  std::vector<float> mean, inverse;
  TensorView gain, bias, gain_gradient, bias_gradient;
  std::vector<int64_t> weight_rows;

  NormRows rows() const { return {mean, inverse, gain, weight_rows}; }
  int64_t WeightRow(int64_t row) const { return weight_rows.empty() ? 0 : weight_rows[row]; }
};

class LayerNormKernels : public EncoderKernels {
 protected:
  TensorView Weights(int64_t rows, int64_t width, float mean) {
    tensors_.emplace_back(meter_, MemoryCategory::kWorkspace, DType::kF32, Shape{rows, width});
    for (int64_t i = 0; i < rows * width; ++i) {
      tensors_.back().data<float>()[i] = mean + 0.5f * random_.Normal();
    }
    return tensors_.back().view();
  }
  NormCase MakeNorm(int64_t width, bool many_weights) {
    const int64_t rows = many_weights ? 4 : 1;
    NormCase norm{.mean = RandomVector(kRows, 0, 0.5f),
                  .inverse = RandomVector(kRows, 1, 0.1f),
                  .gain = Weights(rows, width, 1),
                  .bias = Weights(rows, width, 0),
                  .gain_gradient = Weights(rows, width, 0),
                  .bias_gradient = Weights(rows, width, 0),
                  .weight_rows = {}};
    // One twice, one never.
    if (many_weights) norm.weight_rows = {2, 3, 0, 3, 2};
    return norm;
  }
  // body(width, a norm)
  template <class Body>
  void ForEachNorm(Body&& body) {
    for (const int64_t width : kWidths) {
      for (const bool many_weights : {false, true}) {
        SCOPED_TRACE(testing::Message() << "width " << width << " weights " << many_weights);
        body(width, MakeNorm(width, many_weights));
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Types, LayerNormKernels, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& type) { return std::string(Name(type.param)); });

TEST_P(LayerNormKernels, Forward) {
  ForEachNorm([&](int64_t width, const NormCase& norm) {
    const TensorView x = Random2D(kRows, width, 1);
    const TensorView y = Random2D(kRows, width, 1);
    const std::vector<double> gaps = Gaps(y);
    LayerNormForward(context_, x, norm.rows(), norm.bias, y);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t k = norm.WeightRow(i);
        const double scaled =
            (Get(x, i, j) - norm.mean[i]) * norm.inverse[i] * Get(norm.gain, k, j);
        const double bias = Get(norm.bias, k, j);
        // A difference, a product, a product and sum.
        EXPECT_NEAR(Get(y, i, j), scaled + bias, Bound(std::abs(scaled) + std::abs(bias), 3));
      }
    }
    EXPECT_EQ(Gaps(y), gaps);
  });
}

TEST_P(LayerNormKernels, BackwardSums) {
  ForEachNorm([&](int64_t width, const NormCase& norm) {
    const TensorView x = Random2D(kRows, width, 1);
    const TensorView dy = Random2D(kRows, width, 1);
    std::vector<float> gradient(kRows);
    std::vector<float> product(kRows);
    LayerNormBackwardSums(context_, x, norm.rows(), dy, gradient, product);
    for (int64_t i = 0; i < kRows; ++i) {
      double gradients = 0;
      double gradient_size = 0;
      double products = 0;
      double product_size = 0;
      for (int64_t j = 0; j < width; ++j) {
        const double change = Get(dy, i, j) * Get(norm.gain, norm.WeightRow(i), j);
        const double term = change * (Get(x, i, j) - norm.mean[i]) * norm.inverse[i];
        gradients += change;
        gradient_size += std::abs(change);
        products += term;
        product_size += std::abs(term);
      }
      // A product, or three and a difference, and the additions.
      const auto size = static_cast<double>(width);
      EXPECT_NEAR(gradient[i], gradients, (size + 1) * kUnit * gradient_size);
      EXPECT_NEAR(product[i], products, (size + 4) * kUnit * product_size);
    }
  });
}

TEST_P(LayerNormKernels, Backward) {
  ForEachNorm([&](int64_t width, const NormCase& norm) {
    const TensorView x = Random2D(kRows, width, 1);
    const TensorView dy = Random2D(kRows, width, 1);
    const std::vector<double> before = Values(dy);
    const std::vector<double> gaps = Gaps(dy);
    std::vector<double> gain_gradient = Values(norm.gain_gradient);
    std::vector<double> bias_gradient = Values(norm.bias_gradient);
    std::vector<double> gain_size = Magnitudes(gain_gradient);
    std::vector<double> bias_size = Magnitudes(bias_gradient);
    const std::vector<float> gradient = RandomVector(kRows, 0, 0.5f);
    const std::vector<float> product = RandomVector(kRows, 0, 0.5f);
    LayerNormBackward(context_, x, norm.rows(), gradient, product, dy, norm.gain_gradient,
                      norm.bias_gradient);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t k = norm.WeightRow(i);
        const double inverse = norm.inverse[i];
        const double normal = (Get(x, i, j) - norm.mean[i]) * inverse;
        const double change = before[i * width + j];
        const double scaled = Get(norm.gain, k, j) * change;
        const double along = normal * product[i];
        // A difference and a product, two products and sums, the inverse.
        EXPECT_NEAR(
            Get(dy, i, j), inverse * (scaled - gradient[i] - along),
            Bound(inverse * (std::abs(scaled) + std::abs(gradient[i]) + std::abs(along)), 5));
        gain_gradient[k * width + j] += change * normal;
        gain_size[k * width + j] += std::abs(change * normal);
        bias_gradient[k * width + j] += change;
        bias_size[k * width + j] += std::abs(change);
      }
    }
    EXPECT_EQ(Gaps(dy), gaps);
    for (int64_t k = 0; k < norm.gain.shape[0]; ++k) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t place = k * width + j;
        EXPECT_NEAR(Get(norm.gain_gradient, k, j), gain_gradient[place],
                    (kRows + 3) * kUnit * gain_size[place]);
        EXPECT_NEAR(Get(norm.bias_gradient, k, j), bias_gradient[place],
                    kRows * kUnit * bias_size[place]);
      }
    }
  });
}

TEST_P(LayerNormKernels, RefusesOtherShapes) {
  NormCase norm = MakeNorm(7, true);
  const TensorView x = Random2D(kRows, 7, 1);
  std::vector<float> sums(kRows);
  EXPECT_THROW(LayerNormForward(context_, x, norm.rows(), norm.bias, Random2D(kRows, 8, 1)),
               ShapeError);
  EXPECT_THROW(LayerNormForward(context_, x, norm.rows(), norm.bias.Slice(0, 0, 2), x), ShapeError);
  EXPECT_THROW(RowMoments(context_, x, std::span(sums).first(4), sums), ShapeError);
  norm.weight_rows.pop_back();
  EXPECT_THROW(LayerNormBackwardSums(context_, x, norm.rows(), x, sums, sums), ShapeError);
  norm.weight_rows.clear();
  norm.mean.pop_back();
  EXPECT_THROW(LayerNormBackward(context_, x, norm.rows(), sums, sums, x, norm.gain_gradient,
                                 norm.bias_gradient),
               ShapeError);
}

class DropActivationsKernel : public EncoderKernels {};

INSTANTIATE_TEST_SUITE_P(Types, DropActivationsKernel, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& type) { return std::string(Name(type.param)); });

TEST_P(DropActivationsKernel, DropsWhatKeepsSays) {
  const std::vector<Positions> shards = {
      {{0, 150, 1}},                                           // more than a block of rows
      {{3, 70, 5}, {1000, 0, 1}, {7, 1, 1}, {999983, 66, 2}},  // runs that threads share
      {{(int64_t{1} << 32) - 40, 80, 3}},                      // low halves that wrap
  };
  for (const Positions& positions : shards) {
    for (const int64_t width : {1, 63, 64, 65, 130}) {
      for (const double probability : {0.1, 0.75}) {
        SCOPED_TRACE(testing::Message() << "from " << positions[0].start << " width " << width);
        const Dropout dropout{.probability = probability, .seed = 31};
        const TensorView x = Random2D(Count(positions), width, 1);
        const std::vector<double> before = Values(x);
        const std::vector<double> gaps = Gaps(x);
        DropActivations(context_, dropout, positions, x);
        const double scale = static_cast<float>(1 / (1 - probability));
        for (int64_t i = 0; i < x.shape[0]; ++i) {
          for (int64_t j = 0; j < width; ++j) {
            const double scaled = before[i * width + j] * scale;
            ASSERT_EQ(Get(x, i, j),
                      Keeps(dropout, 0, 0, j, At(positions, i)) ? Stored(GetParam(), scaled) : 0)
                << i << " " << j;
          }
        }
        EXPECT_EQ(Gaps(x), gaps);
      }
    }
  }
}

// Of n elements the share that is dropped has a deviation of sqrt(p (1 - p) / n): within five.
TEST_P(DropActivationsKernel, DropsTheShareAskedFor) {
  for (const double probability : {0.1, 0.5, 0.9}) {
    for (const bool by_columns : {false, true}) {
      const int64_t rows = by_columns ? 20 : 1000;
      const int64_t width = 20000 / rows;
      const TensorView x = Random2D(rows, width, 0, 1);
      DropActivations(context_, {.probability = probability, .seed = 5}, {{0, rows, 1}}, x);
      int64_t dropped = 0;
      for (const double value : Values(x)) dropped += value == 0 ? 1 : 0;
      const double deviation = std::sqrt(probability * (1 - probability) / 20000);
      EXPECT_NEAR(static_cast<double>(dropped) / 20000, probability, 5 * deviation);
    }
  }
}

TEST_P(DropActivationsKernel, NothingAtProbability0AndRefusesOtherPositions) {
  const TensorView x = Random2D(kRows, 7, 1);
  const std::vector<double> before = Values(x);
  DropActivations(context_, {.probability = 0, .seed = 5}, {{0, kRows, 1}}, x);
  EXPECT_EQ(Values(x), before);
  EXPECT_THROW(DropActivations(context_, {.probability = 0.1, .seed = 5}, {{0, 4, 1}}, x),
               ShapeError);
}

}  // namespace
}  // namespace ringwise
