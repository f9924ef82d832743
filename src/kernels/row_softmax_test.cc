#include "kernels/row_softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kRows = 6;

// Row 2 sees nothing, in row 3 every third key is hidden, row 4 is of large scores.
Tensor Scores(MemoryMeter& meter, int64_t keys) {
  Tensor scores(meter, MemoryCategory::kWorkspace, DType::kF32, {kRows, keys});
  Random random(3, 0);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t j = 0; j < keys; ++j) {
      float& score = *scores.view().at<float>(row, j);
      score = random.Normal() * (row == 4 ? 300.0f : 3.0f) - (row == 1 ? 50.0f : 0.0f);
      if (row == 2 || (row == 3 && j % 3 == 1)) score = -kInfinity;
    }
  }
  return scores;
}

double Get(const ConstTensorView& view, int64_t row, int64_t j) {
  return view.dtype == DType::kF32 ? *view.at<float>(row, j)
                                   : static_cast<float>(*view.at<bf16>(row, j));
}

std::vector<double> Softmax(const ConstTensorView& scores, int64_t row, double scale) {
  std::vector<double> p(static_cast<size_t>(scores.shape[1]));
  double largest = -kInfinity;
  for (size_t j = 0; j < p.size(); ++j) largest = std::max(largest, Get(scores, row, j));
  if (largest == -kInfinity) return p;
  double sum = 0;
  for (size_t j = 0; j < p.size(); ++j) {
    sum += p[j] = std::exp(scale * (Get(scores, row, j) - largest));
  }
  for (double& value : p) value /= sum;
  return p;
}

TEST(RowSoftmax, MatchesTheFormulaInDouble) {
  constexpr float kScale = 0.37f;
  MemoryMeter meter;
  ThreadTeam team(3);
  Context context{team, meter};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const double epsilon = dtype == DType::kF32 ? 4e-6 : 0x1p-8;  // f32: of an exponential
    // Between denormals, which alone have no relative precision.
    const double denormal = dtype == DType::kF32 ? 0x1p-149 : 0x1p-133;
    for (const int64_t keys : {1, 2, 7, 16, 33, 257}) {
      const Tensor scores = Scores(meter, keys);
      Tensor p(meter, MemoryCategory::kWorkspace, dtype, {kRows, keys});
      RowSoftmaxForward(context, scores.view(), kScale, p.view());
      Tensor dp(meter, MemoryCategory::kWorkspace, DType::kF32, {kRows, keys});
      Random random(4, static_cast<uint64_t>(keys));
      for (int64_t i = 0; i < dp.elements(); ++i) dp.data<float>()[i] = random.Normal();
      Tensor ds(meter, MemoryCategory::kWorkspace, dtype, {kRows, keys});
      RowSoftmaxBackward(context, p.view(), dp.view(), kScale, ds.view());
      for (int64_t row = 0; row < kRows; ++row) {
        const std::vector<double> exact = Softmax(scores.view(), row, kScale);
        double mean = 0;
        for (int64_t j = 0; j < keys; ++j) mean += Get(p.view(), row, j) * Get(dp.view(), row, j);
        for (int64_t j = 0; j < keys; ++j) {
          EXPECT_NEAR(Get(p.view(), row, j), exact[j], epsilon * exact[j] + 1e-30);
          const double saved = Get(p.view(), row, j);
          const double expected = kScale * saved * (Get(dp.view(), row, j) - mean);
          const double terms = kScale * saved * (std::abs(Get(dp.view(), row, j)) + 4);
          EXPECT_NEAR(Get(ds.view(), row, j), expected, epsilon * terms + 4 * denormal);
        }
      }
    }
  }
}

TEST(RowSoftmax, NaNStays) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  Tensor scores = Scores(meter, 19);
  for (const int64_t row : {0, 2}) {
    *scores.view().at<float>(row, 5) = std::numeric_limits<float>::quiet_NaN();
  }
  Tensor p(meter, MemoryCategory::kWorkspace, DType::kF32, scores.shape());
  RowSoftmaxForward(context, scores.view(), 1, p.view());
  EXPECT_TRUE(std::isnan(Get(p.view(), 0, 5)));
  EXPECT_TRUE(std::isnan(Get(p.view(), 2, 5)));
  EXPECT_FALSE(std::isnan(Get(p.view(), 1, 5)));
}

TEST(RowSoftmax, RejectsOtherShapes) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  const Tensor scores(meter, MemoryCategory::kWorkspace, DType::kF32, {2, 3});
  Tensor p(meter, MemoryCategory::kWorkspace, DType::kF32, {3, 2});
  EXPECT_THROW(RowSoftmaxForward(context, scores.view(), 1, p.view()), ShapeError);
  EXPECT_THROW(RowSoftmaxBackward(context, p.view(), scores.view(), 1, p.view()), ShapeError);
}

}  // namespace
}  // namespace ringwise
