#include "attention/partial_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr int64_t kRows = 37;
constexpr int64_t kDim = 19;

// A partial result of which some rows have seen nothing: they hold what must reach no result.
struct State {
  std::vector<float> output = std::vector<float>(kRows * kDim, NAN);
  std::vector<float> row_max = std::vector<float>(kRows, -std::numeric_limits<float>::infinity());
  std::vector<float> row_sum = std::vector<float>(kRows, 0.0f);
  std::vector<float> row_weight = std::vector<float>(kRows, 0.0f);

  State() = default;
  // Every row sees with this probability.
  State(Random& random, double sees) {
    for (int64_t row = 0; row < kRows; ++row) {
      if (random.Uniform() >= sees) continue;
      row_max[row] = random.Normal();
      row_sum[row] = 1 + static_cast<float>(random.Uniform());
      row_weight[row] = 1 + static_cast<float>(random.Uniform());
      for (int64_t i = 0; i < kDim; ++i) output[row * kDim + i] = random.Normal();
    }
  }

  PartialAttention View() {
    return {output.data(), row_max.data(), row_sum.data(), kRows, kDim, row_weight.data()};
  }
};

// Rows and columns exchanged.
struct Transposed {
  std::vector<float> output = std::vector<float>(kRows * kDim);
  PartialAttention view;

  explicit Transposed(State& from) : view(from.View()) {
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < kDim; ++i) output[i * kRows + row] = from.output[row * kDim + i];
    }
    view.output = output.data();
    view.output_stride = kRows;
  }
};

// The values behind the statistics: sums and outputs at a reference of 0.
void ExpectRow(const State& found, int64_t row, double sum, double weight,
               const std::vector<double>& output) {
  const double unit = std::exp2(static_cast<double>(found.row_max[row]));
  if (sum == 0) {
    EXPECT_EQ(found.row_sum[row], 0);
    return;
  }
  EXPECT_NEAR(unit * found.row_sum[row], sum, 1e-6 * sum);
  EXPECT_NEAR(unit * found.row_weight[row], weight, 1e-6 * weight);
  for (int64_t i = 0; i < kDim; ++i) {
    EXPECT_NEAR(unit * found.output[row * kDim + i], output[i], 5e-6 * sum);
  }
}

TEST(PartialAttention, RowsThatSawNothingReachNoResult) {
  Random random(31, 1);
  for (const bool transposed : {false, true}) {
    for (const double sees : {0.0, 0.1, 0.6, 1.0}) {
      SCOPED_TRACE(testing::Message() << (transposed ? "transposed, " : "") << sees);
      State state;
      std::vector<double> sum(kRows), weight(kRows);
      std::vector<std::vector<double>> output(kRows, std::vector<double>(kDim));
      for (int part = 0; part < 5; ++part) {
        State partial(random, sees);
        for (int64_t row = 0; row < kRows; ++row) {
          if (partial.row_sum[row] == 0) continue;
          const double unit = std::exp2(static_cast<double>(partial.row_max[row]));
          sum[row] += unit * partial.row_sum[row];
          weight[row] += unit * partial.row_weight[row];
          for (int64_t i = 0; i < kDim; ++i) {
            output[row][i] += unit * partial.output[row * kDim + i];
          }
        }
        if (transposed) {
          MergeTransposed(Transposed(partial).view, state.View());
        } else {
          Merge(partial.View(), state.View());
        }
        for (int64_t row = 0; row < kRows; ++row) {
          ExpectRow(state, row, sum[row], weight[row], output[row]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
