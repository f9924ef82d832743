#include "attention/score_terms.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/tile_kernels.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const AttentionShape kShape{2, 3, 3, 16, 16, DType::kF32};
constexpr int64_t kQueries = 130;
constexpr int64_t kKeys = 400;

std::vector<float> Normal(int64_t count, uint64_t stream) {
  Random random(5, stream);
  std::vector<float> values(count);
  for (float& value : values) value = 3 * random.Normal();
  return values;
}

// A bias whose rows stand apart, each axis broadcast or not.
struct Bias {
  Bias(bool by_batch, bool by_head, bool by_query) {
    const Shape wide{by_batch ? 2 : 1, by_head ? 3 : 1, by_query ? kQueries : 1, kKeys + 9};
    static const std::vector<float> kValues = Normal(2 * 3 * kQueries * (kKeys + 9), 1);
    values.assign(kValues.begin(), kValues.begin() + wide.elements());
    view = TensorView(values.data(), DType::kF32, wide).Slice(3, 4, kKeys);
  }
  int64_t At(int axis, int64_t i) const { return view.shape[axis] == 1 ? 0 : i; }
  float* at(int64_t b, int64_t h, int64_t i, int64_t j) const {
    return view.at<float>(At(0, b), At(1, h), At(2, i), j);
  }
  std::vector<float> values;
  TensorView view;
};

struct Tile {
  RowBlock queries;
  RowBlock keys;
};
const std::vector<Tile> kTiles = {
    {{0, {0, 64, 1}}, {0, {0, 48, 1}}},
    {{70, {1000, 60, 1}}, {3, {100, 31, 1}}},
    {{70, {3, 33, 5}}, {3, {7, 48, 8}}},
    {{129, {399, 1, 1}}, {0, {399, 1, 1}}},
};

void Check(const AttentionOptions& options, const Bias* bias, const Tile& tile) {
  AttentionOptions with_bias = options;
  if (bias != nullptr) with_bias.bias = ConstTensorView(bias->view);
  const ScoreTerms terms(kShape, with_bias);
  const double scale = options.scale.value_or(0.25);
  const int64_t rows = tile.keys.count();
  const auto products = Normal(rows * kPanel, 2);
  auto scores = products;
  std::vector<float> slopes(rows * kPanel), added(rows * kPanel);
  std::vector<uint64_t> visible(rows, ~uint64_t{0} << 1);
  terms.Apply(1, 2, tile.queries, tile.keys, scores.data(), slopes.data(), added.data(),
              visible.data());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < tile.queries.count(); ++c) {
      const double x = scale * products[row * kPanel + c];
      double score = options.softcap == 0 ? x : options.softcap * std::tanh(x / options.softcap);
      const double size = std::abs(score);
      const int64_t distance = std::abs(tile.queries.positions[c] - tile.keys.positions[row]);
      double added_term = 0;
      if (!options.alibi_slopes.empty()) {
        added_term -= options.alibi_slopes[2] * static_cast<double>(distance);
      }
      const float element = bias == nullptr
                                ? 0.0f
                                : *bias->at(1, 2, tile.queries.begin + c, tile.keys.positions[row]);
      added_term += element;
      score += added_term;
      const float found = scores[row * kPanel + c];
      ASSERT_EQ(visible[row] >> c & 1, c > 0 && !(element == -kInfinity)) << row << " " << c;
      if (std::isinf(score)) {
        ASSERT_EQ(found, -kInfinity);
      } else {
        ASSERT_NEAR(found, std::numbers::log2e * score,
                    0x1p-23 * (4 * size + 3 * std::abs(added_term) + 3 * std::abs(element)))
            << row << " " << c;
      }
      const double cosh = options.softcap == 0 ? 1 : std::cosh(x / options.softcap);
      ASSERT_NEAR(slopes[row * kPanel + c], 1 / (cosh * cosh), 2e-6);
    }
  }
}

TEST(ScoreTerms, EqualTheFormula) {
  for (const Tile& tile : kTiles) {
    for (int options = 0; options < 8; ++options) {
      AttentionOptions call;
      if ((options & 1) != 0) call.softcap = 2.0;
      if ((options & 2) != 0) call.alibi_slopes = {9.0f, 9.0f, 0.0625f};
      if ((options & 4) == 0) {
        EXPECT_EQ(ScoreTerms(kShape, call).none(), options == 0);
        Check(call, nullptr, tile);
        continue;
      }
      for (int axes = 0; axes < 8; ++axes) {
        Bias bias((axes & 1) != 0, (axes & 2) != 0, (axes & 4) != 0);
        *bias.at(1, 2, tile.queries.begin, tile.keys.positions[0]) = -kInfinity;
        *bias.at(1, 2, tile.queries.begin + tile.queries.count() - 1, tile.keys.positions.last()) =
            -kInfinity;
        Check(call, &bias, tile);
      }
    }
  }
}

// Distances of neighbours that far out are what they are near 0.
TEST(ScoreTerms, DistancesOfLargePositions) {
  AttentionOptions call;
  call.alibi_slopes = {9.0f, 9.0f, 0.5f};
  const int64_t far = int64_t{1} << 40;
  Check(call, nullptr, {{0, {far + 10, 64, 1}}, {0, {far, 48, 3}}});
  Check(call, nullptr, {{0, {far, 64, 1}}, {0, {0, 48, 1}}});
  Check(call, nullptr, {{0, {0, 64, int64_t{1} << 30}}, {0, {5, 48, int64_t{1} << 30}}});
  Check(call, nullptr, {{0, {(1 << 24) - 3, 64, 1}}, {0, {0, 48, 1}}});
}

// Columns without a query hold what products of zeros would be.
TEST(ScoreTerms, ColumnsPastTheLastAddNothing) {
  AttentionOptions call;
  call.alibi_slopes = {0.0f, 0.0f, -5.0f};
  const ScoreTerms terms(kShape, call);
  std::vector<float> scores(kPanel, 0.0f), added(kPanel, 1e30f);
  terms.Apply(0, 2, {0, {100, 3, 1}}, {0, {0, 1, 1}}, scores.data(), nullptr, added.data(),
              nullptr);
  for (int c = 3; c < kPanel; ++c) EXPECT_EQ(scores[c], 0.0f) << c;
}

TEST(ScoreTerms, BiasGradientIsSummedOverBroadcastAxes) {
  for (const Tile& tile : kTiles) {
    for (int axes = 0; axes < 8; ++axes) {
      Bias gradient((axes & 1) != 0, (axes & 2) != 0, (axes & 4) != 0);
      const std::vector<float> before = gradient.values;
      const auto terms = Normal(tile.keys.count() * kPanel, 3);
      std::vector<double> expected(before.begin(), before.end());
      for (const int64_t batch : {0, 1}) {
        AddBiasGradient(batch, 2, tile.queries, tile.keys, terms.data(), gradient.view);
        for (int64_t row = 0; row < tile.keys.count(); ++row) {
          for (int64_t c = 0; c < tile.queries.count(); ++c) {
            const float* at =
                gradient.at(batch, 2, tile.queries.begin + c, tile.keys.positions[row]);
            expected[at - gradient.values.data()] += terms[row * kPanel + c];
          }
        }
      }
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(gradient.values[i], expected[i], 2e-5) << i << ", axes " << axes;
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
