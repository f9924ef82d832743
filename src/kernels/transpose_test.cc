#include "kernels/transpose.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/tile_kernels_fixture.h"
#include "kernels/tile_kernels_reference.h"

namespace ringwise {
namespace {

template <class Operand>
class TransposeTest : public testing::Test {};
TYPED_TEST_SUITE(TransposeTest, TileOperands);

TYPED_TEST(TransposeTest, Transposes) {
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

TEST(Transpose, AddsTransposed) {
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
