#include "ringwise/synthetic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "ringwise/error.h"

namespace ringwise {
namespace {

class SyntheticTest : public ::testing::Test {
 protected:
  std::vector<float> Rows(uint64_t seed, int64_t index, const Positions& positions) {
    std::vector<float> rows(static_cast<size_t>(Count(positions) * kWidth));
    SyntheticRows(context_, seed, index, positions,
                  {rows.data(), DType::kF32, {Count(positions), kWidth}});
    return rows;
  }

  static constexpr int64_t kWidth = 40;
  ThreadTeam team_{2};
  MemoryMeter meter_;
  Context context_{team_, meter_};
};

TEST_F(SyntheticTest, ShardsOfEveryLayoutAreRowsOfTheSample) {
  const std::vector<float> sample = Rows(1, 5, {{0, 12, 1}});
  for (const Positions& shard :
       std::vector<Positions>{{{4, 4, 1}}, {{1, 4, 3}}, {{2, 2, 1}, {8, 2, 1}}, {{0, 0, 1}}}) {
    const std::vector<float> rows = Rows(1, 5, shard);
    for (int64_t row = 0; row < Count(shard); ++row) {
      const auto* expected = sample.data() + At(shard, row) * kWidth;
      EXPECT_TRUE(std::equal(expected, expected + kWidth, rows.data() + row * kWidth));
    }
  }
}

TEST_F(SyntheticTest, SamplesAndSeedsDiffer) {
  const std::vector<float> sample = Rows(1, 5, {{0, 3, 1}});
  EXPECT_EQ(Rows(1, 5, {{0, 3, 1}}), sample);
  EXPECT_NE(Rows(1, 6, {{0, 3, 1}}), sample);
  EXPECT_NE(Rows(2, 5, {{0, 3, 1}}), sample);
}

TEST_F(SyntheticTest, LabelsAreBalanced) {
  constexpr int kSamples = 2000;
  int positive = 0;
  for (int index = 0; index < kSamples; ++index) {
    double sum = 0;
    for (const float x : Rows(1, index, {{0, 8, 1}})) sum += x;
    positive += sum > 0 ? 1 : 0;
  }
  EXPECT_NEAR(positive, 0.5 * kSamples, 112);  // five standard deviations
}

TEST_F(SyntheticTest, RefusesRowsOfAnotherShape) {
  std::vector<float> rows(2 * kWidth);
  const TensorView view(rows.data(), DType::kF32, {2, kWidth});
  EXPECT_THROW(SyntheticRows(context_, 1, 0, {{0, 3, 1}}, view), ShapeError);
}

}  // namespace
}  // namespace ringwise
