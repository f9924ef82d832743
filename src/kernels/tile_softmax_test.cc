#include "kernels/tile_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/tile_kernels_fixture.h"
#include "kernels/tile_kernels_reference.h"

namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class Operand>
class TileSoftmaxTest : public testing::Test {};
TYPED_TEST_SUITE(TileSoftmaxTest, TileOperands);

TYPED_TEST(TileSoftmaxTest, Softmax) {
  using Operand = TypeParam;
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    for (const int options : {0, 1, 2, 3}) {
      for (const int rows : {1, 2, 5, 48}) {
        const Scores input(rows, (options & 1) != 0, (options & 2) != 0);
        const ScoreTile& tile = input.tile;
        const auto reference = Normal<float>(kPanel, 4);
        std::vector<Operand> p((rows + 1) * kPackedStride<Operand>, Operand(9.0f));
        std::vector<float> sums(kPanel), weights(kPanel), excess(kPanel), maxima(kPanel);
        const float highest = kernels.softmax(tile, reference.data(), p.data(), sums.data(),
                                              weights.data(), excess.data());
        kernels.score_maxima(tile, maxima.data());
        double expected_highest = -kInfinity;
        for (int column = 0; column < kPanel; ++column) {
          double sum = 0;
          double weight = 0;
          for (int row = 0; row < rows; ++row) {
            const double expected = ReferenceProbability(tile, row, column, reference[column]);
            const double found =
                ToDouble(p[PackedIndex<Operand>(row, column, kPackedStride<Operand>)]);
            // The argument's own rounding is relative to its magnitude.
            const double t = std::abs(tile.scale * tile.scores[row * kPanel + column]);
            const double bound = kPolynomial + kRounding<Operand> + 6e-8 * (t + 4);
            sum += expected;
            weight += expected;
            if (!ReferenceKept(tile, row, column) || !ReferenceVisible(tile, row, column)) {
              ASSERT_EQ(found, 0.0) << row << " " << column;
              continue;
            }
            ASSERT_NEAR(found, expected, bound * expected + 1e-37) << row << " " << column;
            if (tile.kept == nullptr) weight += found - expected;
          }
          EXPECT_NEAR(sums[column], sum, 3e-6 * sum + 1e-37);
          // Those that were not kept count as rounded too, which cannot be seen in p.
          const double rounding = tile.kept == nullptr ? 0.0 : kRounding<Operand>;
          EXPECT_NEAR(weights[column], weight, (3e-6 + rounding) * weight + 1e-37);
          const double maximum = ReferenceMaximum(tile, column);
          expected_highest = std::max(expected_highest, maximum - reference[column]);
          if (std::isinf(maximum)) {
            EXPECT_EQ(maxima[column], -kInfinity);
            EXPECT_EQ(excess[column], -kInfinity);
          } else {
            EXPECT_NEAR(maxima[column], maximum, 1e-5);
            EXPECT_NEAR(excess[column], maximum - reference[column], 1e-5);
          }
        }
        if (std::isinf(expected_highest)) {
          EXPECT_EQ(highest, -kInfinity);
        } else {
          EXPECT_NEAR(highest, expected_highest, 1e-5);
        }
        // An odd last row of bf16 has a partner of zeros.
        if (kRowGroup<Operand> == 2 && rows % 2 == 1) {
          EXPECT_EQ(ToDouble(p[PackedIndex<Operand>(rows, 5, kPackedStride<Operand>)]), 0.0);
        }
      }
    }
  });
}

// The very numbers of the product and the softmax that it is made of.
TYPED_TEST(TileSoftmaxTest, ProductSoftmax) {
  using Operand = TypeParam;
  constexpr int kMostRows = 96;
  constexpr int kMostDepth = 70;
  constexpr int64_t kStride = kMostDepth + 2;
  const auto keys = Normal<Operand>(kMostRows * kStride, 9);
  const auto query = Normal<Operand>(kMostDepth * kPackedStride<Operand>, 10, 0.3f);
  const auto reference = Normal<float>(kPanel, 11);
  const auto check = [&](const TileKernels<Operand>& kernels, int depth) {
    // 4: what is visible is above a diagonal; with 2, and some is dropped, below it.
    for (const int options : {0, 1, 2, 3, 5, 7}) {
      for (const int columns : {kPanel - kLanes + 1, kPanel}) {
        for (const int rows : {1, 2, 5, 6, 8, 13, 17, 33, 48, 64, 65, kMostRows}) {
          Scores input(rows, (options & 1) != 0, (options & 2) != 0);
          for (int row = 0; row < rows && (options & 4) != 0; ++row) {
            const uint64_t above = ~uint64_t{0} << std::min(row, kPanel - 1);
            input.visible[row] = (options & 2) == 0 ? above : ~above;
          }
          ScoreTile tile = input.tile;
          tile.columns = columns;
          std::vector<float> scores(rows * kPanel);
          kernels.product(keys.data(), kStride, query.data(), kPackedStride<Operand>, rows, columns,
                          depth, scores.data(), kPanel, false);
          tile.scores = scores.data();
          std::vector<Operand> expected_p((rows + 2) * kPackedStride<Operand>, Operand(9.0f)),
              p(expected_p);
          std::vector<float> expected_sums(kPanel), expected_weights(kPanel), excess(kPanel);
          std::vector<float> sums(kPanel), weights(kPanel);
          kernels.softmax(tile, reference.data(), expected_p.data(), expected_sums.data(),
                          expected_weights.data(), excess.data());
          tile.scores = nullptr;
          LinesAhead ahead;
          kernels.product_softmax(keys.data(), kStride, query.data(), depth, tile, reference.data(),
                                  p.data(), sums.data(), weights.data(), ahead);
          // An odd last row of bf16 has a partner of zeros; no further row is written.
          for (int row = rows; row < rows + 2; ++row) {
            const bool partner = row == rows && rows % kRowGroup<Operand> != 0;
            const int64_t at = PackedIndex<Operand>(row, 5, kPackedStride<Operand>);
            EXPECT_EQ(ToDouble(p[at]), partner ? 0.0 : 9.0);
          }
          for (int column = 0; column < columns; ++column) {
            SCOPED_TRACE(column);
            EXPECT_EQ(sums[column], expected_sums[column]);
            EXPECT_EQ(weights[column], expected_weights[column]);
            for (int row = 0; row < rows; ++row) {
              const int64_t at = PackedIndex<Operand>(row, column, kPackedStride<Operand>);
              ASSERT_EQ(ToDouble(p[at]), ToDouble(expected_p[at])) << row;
            }
          }
        }
      }
    }
  };
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    for (const int depth : {18, 64, kMostDepth}) {
      SCOPED_TRACE(depth);
      check(kernels, depth);
    }
  });
}

TYPED_TEST(TileSoftmaxTest, NaNIsKept) {
  using Operand = TypeParam;
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    Scores input(6, false);
    input.scores[2 * kPanel + 11] = std::nanf("");
    const std::vector<float> zero(6 * kPanel, 0.0f);
    std::vector<Operand> p(6 * kPackedStride<Operand>), ds(p.size()), packed(p.size());
    std::vector<float> sums(kPanel), weights(kPanel), excess(kPanel);
    const float highest = kernels.softmax(input.tile, zero.data(), p.data(), sums.data(),
                                          weights.data(), excess.data());
    EXPECT_FALSE(std::isnan(highest));
    for (int column = 0; column < kPanel; ++column) {
      EXPECT_EQ(std::isnan(sums[column]), column == 11);
      EXPECT_EQ(std::isnan(weights[column]), column == 11);
      EXPECT_FALSE(std::isnan(excess[column]));
    }
    EXPECT_TRUE(std::isnan(ToDouble(p[PackedIndex<Operand>(2, 11, kPackedStride<Operand>)])));
    kernels.softmax_gradient(input.tile, {}, zero.data(), zero.data(), zero.data(), p.data(),
                             ds.data(), kPanel, packed.data());
    EXPECT_TRUE(std::isnan(ToDouble(p[2 * kPanel + 11])));
    EXPECT_TRUE(std::isnan(ToDouble(ds[2 * kPanel + 11])));
  });
}

// The exponential over its whole range, against double: at most 2.5 units in the last place.
TEST(TileSoftmax, Exponential) {
  ForEachKernels<float>([&](const TileKernels<float>& kernels) {
    double worst = 0;
    const std::vector<float> zero(kPanel, 0.0f);
    std::vector<float> scores(kPanel), p(kPanel), sums(kPanel), weights(kPanel), excess(kPanel);
    for (float begin = -125.0f; begin < 9.0f; begin += 0.0171f) {
      for (int i = 0; i < kPanel; ++i) scores[i] = begin + 0.00027f * static_cast<float>(i);
      kernels.softmax({.scores = scores.data(), .rows = 1, .columns = kPanel, .scale = 1.0f},
                      zero.data(), p.data(), sums.data(), weights.data(), excess.data());
      for (int i = 0; i < kPanel; ++i) {
        const double expected = std::exp2(static_cast<double>(scores[i]));
        const float rounded = static_cast<float>(expected);
        const double unit = std::nextafter(rounded, kInfinity) - static_cast<double>(rounded);
        worst = std::max(worst, std::abs(p[i] - expected) / unit);
      }
    }
    EXPECT_LE(worst, 2.5);
    // Far below the least normal number nothing of it is left.
    std::fill(scores.begin(), scores.end(), -1e5f);
    kernels.softmax({.scores = scores.data(), .rows = 1, .columns = kPanel, .scale = 1.0f},
                    zero.data(), p.data(), sums.data(), weights.data(), excess.data());
    EXPECT_LE(p[0], 1.2e-38f);
    EXPECT_GE(p[0], 0.0f);
    // Beyond the largest number it is infinite: sums tell by it that the reference has to move.
    for (const float high : {128.0f, 129.0f, 200.0f, 300.0f, 400.0f, 1e5f, 1e9f, 1e30f}) {
      std::fill(scores.begin(), scores.end(), high);
      kernels.softmax({.scores = scores.data(), .rows = 1, .columns = kPanel, .scale = 1.0f},
                      zero.data(), p.data(), sums.data(), weights.data(), excess.data());
      EXPECT_EQ(p[0], kInfinity) << high;
      EXPECT_EQ(sums[0], kInfinity) << high;
    }
  });
}

}  // namespace
}  // namespace ringwise
