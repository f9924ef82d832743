#include "kernels/normal_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "hwy/targets.h"
#include "kernels/normal_rows_reference.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

std::vector<float> Rows(uint64_t seed, int64_t index, const Positions& positions, int64_t width,
                        int threads = 1) {
  ThreadTeam team(threads);
  MemoryMeter meter;
  Context context{team, meter};
  std::vector<float> rows(static_cast<size_t>(Count(positions) * width));
  NormalRows(context, seed, index, positions,
             {rows.data(), DType::kF32, {Count(positions), width}});
  return rows;
}

// How far a float may be from NormalPair in double. u is rounded twice, so ln u may be off by 2
// epsilon, and radius^2 = -2 ln u by 4; where the radius is small, that is a large part of it.
// Relative to the radius: the logarithm's own 2 epsilon are 1 after the root, root and product add
// half each, t, cosine and sine with the terms their series leave out 2.
double Bound(double radius) {
  constexpr double kEpsilon = 0x1p-24;
  return 4 * kEpsilon * radius + std::min(std::sqrt(4 * kEpsilon), 4 * kEpsilon / radius);
}

void CheckAgainstDefinition(uint64_t seed, int64_t index, const PositionRun& run, int64_t width) {
  const std::vector<float> rows = Rows(seed, index, {run}, width);
  for (int64_t row = 0; row < run.count; ++row) {
    const NormalRowStream stream(seed, index, run[row]);
    for (int64_t c = 0; c < width; ++c) {
      const int64_t within = c % (2 * kNormalPairs);
      const int64_t pair = c / (2 * kNormalPairs) * kNormalPairs + within % kNormalPairs;
      const auto normals = NormalPair<double>(stream, pair);
      ASSERT_NEAR(rows[static_cast<size_t>(row * width + c)], normals[within / kNormalPairs],
                  Bound(std::hypot(normals[0], normals[1])))
          << "seed " << seed << ", index " << index << ", position " << run[row] << ", column "
          << c;
    }
  }
}

TEST(NormalRows, EqualTheDefinition) {
  constexpr int64_t kHalf = int64_t{1} << 32;
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    for (int64_t width = 0; width <= 70; ++width) CheckAgainstDefinition(5, 7, {3, 2, 9}, width);
    CheckAgainstDefinition(0, 0, {0, 40, 1}, 512);
    CheckAgainstDefinition(UINT64_MAX, 3 * kHalf + 1, {kHalf - 2, 5, 1}, 100);
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

// u >= 2^-32 keeps radii below sqrt(64 ln 2) = 6.66.
TEST(NormalRows, AreFiniteWithLongTails) {
  double largest = 0;
  for (int64_t row = 0; row < 20; ++row) {
    for (const float x : Rows(1, 0, {{row * 100, 100, 1}}, 4096)) {
      ASSERT_TRUE(std::isfinite(x));
      largest = std::max(largest, std::abs(static_cast<double>(x)));
    }
  }
  EXPECT_GT(largest, 4.8);  // of 8 million; the expected largest is 5.3
  EXPECT_LT(largest, 6.67);
}

TEST(NormalRows, DependOnSeedIndexPositionAndColumnAlone) {
  constexpr int64_t kWidth = 70;
  const std::vector<float> whole = Rows(9, 4, {{0, 50, 1}}, kWidth);
  EXPECT_EQ(Rows(9, 4, {{0, 50, 1}}, kWidth, 3), whole);
  const Positions shard{{1, 5, 3}, {40, 0, 1}, {20, 7, 1}};
  const std::vector<float> part = Rows(9, 4, shard, kWidth, 2);
  const std::vector<float> narrow = Rows(9, 4, shard, 37);
  for (int64_t row = 0; row < Count(shard); ++row) {
    const float* expected = whole.data() + At(shard, row) * kWidth;
    EXPECT_TRUE(std::equal(expected, expected + kWidth, part.data() + row * kWidth)) << row;
    EXPECT_TRUE(std::equal(expected, expected + 37, narrow.data() + row * 37)) << row;
  }
}

TEST(NormalRows, LeaveWhatIsBetweenStridedRows) {
  ThreadTeam team(2);
  MemoryMeter meter;
  Context context{team, meter};
  std::vector<float> memory(4 * 50, 7.0f);
  const TensorView all(memory.data(), DType::kF32, {4, 50});
  NormalRows(context, 1, 2, {{0, 4, 1}}, all.Slice(1, 3, 40));
  const std::vector<float> expected = Rows(1, 2, {{0, 4, 1}}, 40);
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t c = 0; c < 50; ++c) {
      EXPECT_EQ(memory[row * 50 + c], c < 3 || c >= 43 ? 7.0f : expected[row * 40 + c - 3]);
    }
  }
  EXPECT_THROW(NormalRows(context, 1, 2, {{0, 3, 1}}, all), ShapeError);
}

// Mean of f over all numbers, within five standard deviations of what it is for normal numbers.
template <class F>
void ExpectMean(const std::vector<float>& values, F&& f, double mean, double variance,
                const char* what) {
  double sum = 0;
  for (const float x : values) sum += f(static_cast<double>(x));
  const auto count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, mean, 5 * std::sqrt(variance / count)) << what;
}

TEST(NormalRows, HaveTheMomentsAndTailsOfNormals) {
  const std::vector<float> values = Rows(3, 0, {{0, 4000, 1}}, 1024, 2);
  ExpectMean(
      values, [](double x) { return x; }, 0, 1, "mean");
  ExpectMean(
      values, [](double x) { return x * x; }, 1, 2, "variance");
  ExpectMean(
      values, [](double x) { return x * x * x; }, 0, 15, "third moment");
  ExpectMean(
      values, [](double x) { return x * x * x * x; }, 3, 96, "fourth moment");
  for (const double at : {-3.5, -2.0, -1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0, 2.0, 3.5}) {
    const double below = std::erfc(-at / std::sqrt(2.0)) / 2;
    ExpectMean(
        values, [&](double x) { return x < at ? 1.0 : 0.0; }, below, below * (1 - below),
        "distribution");
  }
}

// Products of numbers a fixed step apart average 0: between columns, among them the two of a pair
// and neighbours, between positions, samples and seeds. And of their squares, 1.
TEST(NormalRows, AreIndependent) {
  constexpr int64_t kWidth = 512;
  const std::vector<float> here = Rows(3, 10, {{0, 2001, 1}}, kWidth, 2);
  const auto check = [](const float* a, const float* b, int64_t count, const std::string& what) {
    std::vector<float> products(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) products[i] = a[i] * b[i];
    ExpectMean(
        products, [](double x) { return x; }, 0, 1, what.c_str());
    ExpectMean(
        products, [](double x) { return x * x; }, 1, 8, (what + ", squares").c_str());
  };
  constexpr int64_t kCount = 2000 * kWidth;
  for (const int64_t step : {1, 2, 8, 16, 31, 32, 256}) {
    check(here.data(), here.data() + step, kCount, "columns " + std::to_string(step) + " apart");
  }
  check(here.data(), here.data() + kWidth, kCount, "next position");
  check(here.data(), Rows(3, 11, {{0, 2001, 1}}, kWidth).data(), kCount, "next sample");
  check(here.data(), Rows(4, 10, {{0, 2001, 1}}, kWidth).data(), kCount, "next seed");
}

}  // namespace
}  // namespace ringwise
