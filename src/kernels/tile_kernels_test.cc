#include "kernels/tile_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/tile_kernels_fixture.h"
#include "kernels/tile_kernels_reference.h"

namespace ringwise {
namespace {

template <class Operand>
class TileKernelsTest : public testing::Test {};
TYPED_TEST_SUITE(TileKernelsTest, TileOperands);

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

}  // namespace
}  // namespace ringwise
