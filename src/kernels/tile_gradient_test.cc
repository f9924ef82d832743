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
class TileGradientTest : public testing::Test {};
TYPED_TEST_SUITE(TileGradientTest, TileOperands);

// Where dQ's product finds ds.
template <class Operand>
Operand PackedGradient(const std::vector<Operand>& ds, int64_t ld,
                       const std::vector<Operand>& packed, int row, int column) {
  return kRowsArePacked<Operand>
             ? ds[PackedIndex<Operand>(row, column, ld)]
             : packed[PackedIndex<Operand>(row, column, kPackedStride<Operand>)];
}

TYPED_TEST(TileGradientTest, SoftmaxGradient) {
  using Operand = TypeParam;
  constexpr bool kIsBf16 = std::is_same_v<Operand, bf16>;
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    for (const int options : {0, 1, 2, 3, 4, 5, 8, 15}) {
      for (const int rows : {1, 4, 7, 48}) {
        const Scores input(rows, (options & 1) != 0, (options & 2) != 0);
        const ScoreTile& tile = input.tile;
        constexpr int64_t kStride = 2 * kPanel;
        auto logsumexp = Normal<float>(kPanel, 5);
        logsumexp[7] = kInfinity;  // a row that sees nothing, or none
        const auto delta = Normal<float>(kPanel, 6);
        const auto dp = Normal<float>(rows * kPanel, 7);
        const auto slopes = Normal<float>(rows * kPanel, 8);
        std::vector<float> unsloped(rows * kPanel);
        const ScoreGradientTerms terms{.dropout_factor = 1.25f,
                                       .slopes = (options & 4) != 0 ? slopes.data() : nullptr,
                                       .unsloped = (options & 8) != 0 ? unsloped.data() : nullptr};
        std::vector<Operand> p((rows + 1) * kStride), ds(p.size()), packed(p.size());
        kernels.softmax_gradient(tile, terms, dp.data(), logsumexp.data(), delta.data(), p.data(),
                                 ds.data(), kStride, packed.data());
        for (int row = 0; row < rows; ++row) {
          for (int column = 0; column < kPanel; ++column) {
            const double power = ReferenceProbability(tile, row, column, logsumexp[column]);
            const int in_panel = row * kPanel + column;
            const bool kept = ReferenceKept(tile, row, column);
            const double factor = tile.kept == nullptr ? 1.0 : kept ? 1.25 : 0.0;
            const double unsloped_gradient = power * (factor * dp[in_panel] - delta[column]);
            const double gradient =
                unsloped_gradient * (terms.slopes == nullptr ? 1.0 : slopes[in_panel]);
            const double t = std::abs(tile.scale * tile.scores[row * kPanel + column]);
            const double bound =
                (kIsBf16 ? kRoughPolynomial : kPolynomial) + kRounding<Operand> + 6e-8 * (t + 4);
            const int64_t at = row * kStride + column;
            ASSERT_NEAR(ToDouble(p[at]), kept ? power : 0.0, bound * power + 1e-37);
            // The difference of dp and delta may cancel, having been rounded before.
            const double cancelled = 1e-6 * power * std::abs(delta[column]) *
                                     (terms.slopes == nullptr ? 1 : std::abs(slopes[in_panel]));
            ASSERT_NEAR(ToDouble(ds[at]), gradient, bound * std::abs(gradient) + cancelled + 1e-37);
            if (terms.unsloped != nullptr) {
              ASSERT_NEAR(unsloped[in_panel], unsloped_gradient,
                          bound * std::abs(unsloped_gradient) +
                              1e-6 * power * std::abs(delta[column]) + 1e-37);
            }
            ASSERT_EQ(ToDouble(PackedGradient(ds, kStride, packed, row, column)), ToDouble(ds[at]));
          }
        }
      }
    }
  });
}

// Every count of rows that register tiles take, odd ones included, several blocks of them, and
// columns that are not there. AMX has its own kernel where both depths leave the same remainder.
TYPED_TEST(TileGradientTest, ProductSoftmaxGradient) {
  using Operand = TypeParam;
  constexpr bool kIsBf16 = std::is_same_v<Operand, bf16>;
  constexpr int kDepths[][2] = {{34, 18}, {64, 32}, {38, 70}};  // of scores and of dp
  constexpr int64_t kStride = 2 * kPanel;
  const auto check = [&](const TileKernels<Operand>& kernels, const int(&depth)[2]) {
    enum Masked { kNot, kAtRandom, kBelowDiagonal, kAboveDiagonal };
    for (const Masked masked : {kNot, kAtRandom, kBelowDiagonal, kAboveDiagonal}) {
      for (const int rows : {1, 2, 3, 4, 5, 6, 8, 13, 17, 33, 48, 64, 65}) {
        Scores input(rows, masked != kNot);
        for (int row = 0; row < rows && masked >= kBelowDiagonal; ++row) {
          const uint64_t above = ~uint64_t{0} << std::min(row, kPanel - 1);
          input.visible[row] = masked == kBelowDiagonal ? above : ~above;
        }
        input.tile.scores = nullptr;
        input.tile.columns = kPanel - 7;
        const ScoreTile& tile = input.tile;
        std::vector<Operand> left[2], right[2];
        PanelFactors<Operand> factors[2];
        for (int i = 0; i < 2; ++i) {
          const int stride = depth[i] + 5;
          left[i] = Normal<Operand>(rows * stride, 10 + i);
          right[i] = Normal<Operand>(depth[i] * kPackedStride<Operand>, 12 + i);
          factors[i] = {left[i].data(), stride, right[i].data(), depth[i]};
        }
        const auto product = [&](int i, int row, int column) {
          return ReferenceProduct(factors[i].left, factors[i].stride, factors[i].right,
                                  kPackedStride<Operand>, row, column, depth[i]);
        };
        auto logsumexp = Normal<float>(kPanel, 5);
        logsumexp[7] = kInfinity;  // a row that sees nothing
        const auto delta = Normal<float>(kPanel, 6);
        std::vector<float> powers(rows * kPanel);
        std::vector<Operand> p((rows + 1) * kStride, Operand(9.0f)), ds(p), packed(p);
        LinesAhead ahead;
        kernels.product_softmax_gradient(factors[0], factors[1], tile, logsumexp.data(),
                                         delta.data(), powers.data(), p.data(), ds.data(), kStride,
                                         packed.data(), ahead);
        for (int row = 0; row < rows; ++row) {
          for (int column = 0; column < tile.columns; ++column) {
            const double t = tile.scale * product(0, row, column) - logsumexp[column];
            const double power = ReferenceVisible(tile, row, column) ? std::exp2(t) : 0.0;
            const double dp = product(1, row, column);
            const double rounding =
                (kIsBf16 ? kRoughPolynomial : kPolynomial) + kRounding<Operand> + 1e-5;
            const int64_t at = row * kStride + column;
            ASSERT_NEAR(ToDouble(p[at]), power, rounding * power + 1e-37) << row << " " << column;
            ASSERT_NEAR(ToDouble(ds[at]), power * (dp - delta[column]),
                        power * (rounding * std::abs(dp - delta[column]) + 1e-5) + 1e-36)
                << row << " " << column;
            ASSERT_EQ(ToDouble(PackedGradient(ds, kStride, packed, row, column)), ToDouble(ds[at]));
          }
        }
        // An odd last row of bf16 has a partner of zeros; no further row is written.
        if (kIsBf16 && rows % 2 == 1) {
          EXPECT_EQ(ToDouble(packed[PackedIndex<Operand>(rows, 5, kPackedStride<Operand>)]), 0.0);
        }
        EXPECT_EQ(ToDouble(p[rows * kStride]), 9.0);
        EXPECT_EQ(ToDouble(ds[rows * kStride]), 9.0);
        EXPECT_EQ(ToDouble(packed[(rows + 1) * kPackedStride<Operand>]), 9.0);
      }
    }
  };
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    for (const auto& depth : kDepths) {
      SCOPED_TRACE(depth[0]);
      check(kernels, depth);
    }
  });
}

}  // namespace
}  // namespace ringwise
