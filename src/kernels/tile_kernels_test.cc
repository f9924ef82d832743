#include "kernels/tile_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "hwy/targets.h"
#include "kernels/tile_kernels_reference.h"
#include "kernels/transpose.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class Operand>
std::vector<Operand> Normal(size_t count, uint64_t stream, float scale = 1.0f) {
  Random random(1, stream);
  std::vector<Operand> values(count);
  for (Operand& value : values) value = Operand(scale * random.Normal());
  return values;
}

// Runs `check` with the kernels of every instruction set that this machine has.
template <class Operand, class Check>
void ForEachKernels(const Check& check) {
  if constexpr (std::is_same_v<Operand, bf16>) {
    if (NativeBf16TileKernels() == nullptr) GTEST_SKIP() << "no bf16 products on this CPU";
    for (const auto* kernels : {AmxTileKernels(), DotBf16TileKernels()}) {
      SCOPED_TRACE(kernels == AmxTileKernels() ? "AMX" : "AVX-512 BF16");
      if (kernels != nullptr) check(*kernels);
    }
  } else {
    for (const auto target : hwy::SupportedAndGeneratedTargets()) {
      SCOPED_TRACE(hwy::TargetName(target));
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().DeInit();
      check(FloatTileKernels());
    }
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
}

template <class Operand>
class TileKernelsTest : public testing::Test {};
using Operands = testing::Types<float, bf16>;
TYPED_TEST_SUITE(TileKernelsTest, Operands);

// Every count of rows up to more than two blocks of them (32 for AMX), every count of columns, some
// depths; odd strides; nothing written past the columns that may be.
TYPED_TEST(TileKernelsTest, ProductOfEverySize) {
  using Operand = TypeParam;
  constexpr int kMostRows = 70;
  constexpr int kMostDepth = 70;
  // Of so many sums of two terms some are far above sqrt(2): factors below 1 keep them near.
  const auto a = Normal<Operand>(kMostRows * (kMostDepth + 3), 1, 0.7f);
  const auto b = Normal<Operand>((kMostDepth + 2) * (kPanel + 5), 2);
  constexpr int64_t kLda = kMostDepth + 3;
  constexpr int64_t kLdb = kPanel + 5;
  constexpr int64_t kLdc = kPanel + 7;
  for (const int k : {2, 6, 32, 64, kMostDepth}) {
    std::vector<double> expected(kMostRows * kPanel);
    for (int i = 0; i < kMostRows * kPanel; ++i) {
      expected[i] = ReferenceProduct(a.data(), kLda, b.data(), kLdb, i / kPanel, i % kPanel, k);
    }
    ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
      for (int m = 1; m <= kMostRows; ++m) {
        for (int n = 1; n <= kPanel; n += m == 13 || m == 45 ? 1 : 9) {
          const int written = (n + kLanes - 1) / kLanes * kLanes;
          for (const float before : {0.0f, 3.0f}) {
            std::vector<float> c(m * kLdc, 3.0f);
            kernels.product(a.data(), kLda, b.data(), kLdb, m, n, k, c.data(), kLdc, before != 0);
            for (int row = 0; row < m; ++row) {
              for (int column = 0; column < kLdc; ++column) {
                const float found = c[row * kLdc + column];
                if (column >= written) {
                  ASSERT_EQ(found, 3.0f) << "overwritten: " << row << " " << column;
                } else if (column < n) {
                  // k roundings of sums of a magnitude of about sqrt(k).
                  ASSERT_NEAR(found, expected[row * kPanel + column] + before,
                              6e-8 * k * (3 + std::sqrt(k)))
                      << m << " " << n << " " << k << " at " << row << " " << column;
                }
              }
            }
          }
        }
      }
    });
  }
}

// Small terms are not lost in a large sum: the sum over k is made first, then added.
TYPED_TEST(TileKernelsTest, AddsToLargeSums) {
  using Operand = TypeParam;
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    for (const int k : {256, 278}) {
      constexpr int kRows = 33;
      constexpr float kLarge = 0x1p24f;  // neighbours are 2 apart
      const std::vector<Operand> a(kRows * k, Operand(0x1p-5f)), b(k * kPanel, Operand(1.0f));
      std::vector<float> c(kRows * kPanel, kLarge);
      kernels.product(a.data(), k, b.data(), kPanel, kRows, kPanel, k, c.data(), kPanel, true);
      for (const float sum : c) ASSERT_NEAR(sum, kLarge + 0x1p-5 * k, 1.0) << k;
    }
  });
}

struct Scores {
  explicit Scores(int rows, bool masked, bool drops = false)
      : scores(Normal<float>(rows * kPanel, 3, 20.0f)) {
    Random random(2, 2);
    for (int row = 0; row < rows; ++row) {
      // Some rows all, none or half of them.
      visible.push_back(row % 5 == 3 ? ~uint64_t{0} : row % 5 == 1 ? 0 : random.Below(UINT64_MAX));
      kept.push_back(random.Below(UINT64_MAX));
    }
    tile = {.scores = scores.data(),
            .rows = rows,
            .columns = kPanel,
            .scale = 0.17f,
            .visible = masked ? visible.data() : nullptr,
            .kept = drops ? kept.data() : nullptr};
  }
  std::vector<float> scores;
  std::vector<uint64_t> visible;
  std::vector<uint64_t> kept;
  ScoreTile tile;
};

// Half a unit in the last place of what p is stored as, beside the polynomial's error.
template <class Operand>
constexpr double kRounding = std::is_same_v<Operand, bf16> ? 1.0 / 256 : 0.0;
constexpr double kPolynomial = 2.5e-7;       // two units in the last place of f32
constexpr double kRoughPolynomial = 8.5e-5;  // where bf16 follows

TYPED_TEST(TileKernelsTest, Softmax) {
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
TYPED_TEST(TileKernelsTest, ProductSoftmax) {
  using Operand = TypeParam;
  constexpr int kMostRows = 96;
  constexpr int kMostDepth = 70;
  constexpr int64_t kStride = kMostDepth + 2;
  const auto keys = Normal<Operand>(kMostRows * kStride, 9);
  const auto query = Normal<Operand>(kMostDepth * kPackedStride<Operand>, 10, 0.3f);
  const auto reference = Normal<float>(kPanel, 11);
  const auto check = [&](const TileKernels<Operand>& kernels, int depth) {
    for (const int options : {0, 1, 2, 3}) {
      for (const int columns : {kPanel - kLanes + 1, kPanel}) {
        for (const int rows : {1, 2, 5, 6, 8, 13, 17, 33, 48, 64, 65, kMostRows}) {
          const Scores input(rows, (options & 1) != 0, (options & 2) != 0);
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

// Where dQ's product finds ds.
template <class Operand>
Operand PackedGradient(const std::vector<Operand>& ds, int64_t ld,
                       const std::vector<Operand>& packed, int row, int column) {
  return kRowsArePacked<Operand>
             ? ds[PackedIndex<Operand>(row, column, ld)]
             : packed[PackedIndex<Operand>(row, column, kPackedStride<Operand>)];
}

TYPED_TEST(TileKernelsTest, SoftmaxGradient) {
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
TYPED_TEST(TileKernelsTest, ProductSoftmaxGradient) {
  using Operand = TypeParam;
  constexpr bool kIsBf16 = std::is_same_v<Operand, bf16>;
  constexpr int kDepths[][2] = {{34, 18}, {64, 32}, {38, 70}};  // of scores and of dp
  constexpr int64_t kStride = 2 * kPanel;
  const auto check = [&](const TileKernels<Operand>& kernels, const int(&depth)[2]) {
    for (const bool masked : {false, true}) {
      for (const int rows : {1, 2, 3, 4, 5, 6, 8, 13, 17, 33, 48, 64, 65}) {
        Scores input(rows, masked);
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

TYPED_TEST(TileKernelsTest, NaNIsKept) {
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
TEST(TileKernels, Exponential) {
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

TYPED_TEST(TileKernelsTest, Packs) {
  using Operand = TypeParam;
  constexpr int64_t kGroup = kRowGroup<Operand>;
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    for (const int rows : {1, 16, 17, 63, 64}) {
      for (const int length : {1, 2, 15, 16, 33, 64, 65, 129}) {
        const int64_t stride = length + 3;
        const auto source = Normal<Operand>(rows * stride, 8);
        const int64_t depth = (length + kGroup - 1) / kGroup * kGroup;
        std::vector<Operand> packed(depth * kPackedStride<Operand>, Operand(7.0f));
        kernels.pack_transposed(source.data(), stride, rows, length, packed.data());
        for (int64_t i = 0; i < depth; ++i) {
          for (int64_t row = 0; row < kPanel; ++row) {
            const double expected =
                i < length && row < rows ? ToDouble(source[row * stride + i]) : 0.0;
            ASSERT_EQ(ToDouble(packed[PackedIndex<Operand>(i, row, kPackedStride<Operand>)]),
                      expected)
                << rows << " " << length << " at " << i << " " << row;
          }
        }
        const int64_t packed_rows = (rows + kGroup - 1) / kGroup * kGroup;
        const int64_t panels = (length + kPanel - 1) / kPanel;
        const int64_t panel_stride = packed_rows * kPackedStride<Operand> + 64;
        std::vector<Operand> panel_rows(panels * panel_stride, Operand(7.0f));
        kernels.pack_rows(source.data(), stride, rows, length, panel_stride, panel_rows.data());
        for (int64_t row = 0; row < packed_rows; ++row) {
          for (int64_t i = 0; i < panels * kPanel; ++i) {
            const double expected =
                i < length && row < rows ? ToDouble(source[row * stride + i]) : 0.0;
            ASSERT_EQ(
                ToDouble(panel_rows[i / kPanel * panel_stride +
                                    PackedIndex<Operand>(row, i % kPanel, kPackedStride<Operand>)]),
                expected);
          }
        }
      }
    }
  });
}

TYPED_TEST(TileKernelsTest, ScalesColumns) {
  using Operand = TypeParam;
  ForEachKernels<Operand>([&](const TileKernels<Operand>& kernels) {
    const auto factors = Normal<float>(kPanel, 9);
    const auto before = Normal<float>(5 * kPanel, 10);
    auto after = before;
    kernels.scale_columns(factors.data(), 5, after.data());
    for (int i = 0; i < 5 * kPanel; ++i) EXPECT_EQ(after[i], before[i] * factors[i % kPanel]);
  });
}

TYPED_TEST(TileKernelsTest, Transposes) {
  using Operand = TypeParam;
  for (const int64_t rows : {1, 15, 16, 33}) {
    for (const int64_t columns : {1, 16, 17, 40}) {
      const auto source = Normal<Operand>(rows * (columns + 3), 11);
      std::vector<Operand> transposed(columns * (rows + 5), Operand(7.0f));
      Transpose(source.data(), columns + 3, rows, columns, transposed.data(), rows + 5);
      for (int64_t column = 0; column < columns; ++column) {
        for (int64_t row = 0; row < rows + 5; ++row) {
          const double expected = row < rows ? ToDouble(source[row * (columns + 3) + column]) : 7.0;
          ASSERT_EQ(ToDouble(transposed[column * (rows + 5) + row]), expected);
        }
      }
    }
  }
}

TEST(TileKernels, AddsTransposed) {
  for (const int64_t rows : {1, 15, 16, 33}) {
    for (const int64_t columns : {1, 16, 17, 40}) {
      const auto source = Normal<float>(rows * (columns + 3), 12);
      const auto add = Normal<float>(columns, 13);
      const auto keep = Normal<float>(columns, 14);
      const auto before = Normal<float>(columns * (rows + 5), 15);
      auto sums = before;
      AddTransposed(source.data(), columns + 3, rows, columns, add.data(), keep.data(), sums.data(),
                    rows + 5);
      for (int64_t column = 0; column < columns; ++column) {
        for (int64_t row = 0; row < rows + 5; ++row) {
          const int64_t at = column * (rows + 5) + row;
          if (row >= rows) {
            ASSERT_EQ(sums[at], before[at]);
            continue;
          }
          const float kept = keep[column] * before[at];
          const float added = add[column] * source[row * (columns + 3) + column];
          ASSERT_NEAR(sums[at], kept + added, 1e-6 * (1 + std::abs(kept) + std::abs(added)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
