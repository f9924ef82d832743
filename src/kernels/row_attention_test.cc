#include "kernels/row_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "ringwise/random.h"

namespace ringwise {
namespace {

struct Case {
  int64_t kv_heads = 1;
  int64_t rows = 1;
  int64_t head_dim = 8;
  int64_t value_dim = 8;
  int64_t count = 0;
  int64_t padding = 0;  // elements between positions
  double size = 1;      // of the queries
};

// Rows with the keys and values that they see, in memory of exactly their size.
template <class Element>
struct Problem {
  Problem(const Case& c, uint64_t seed) : shape(c) {
    Random random(seed, 1);
    const auto fill = [&](auto& list, int64_t count, double size) {
      list.resize(static_cast<size_t>(count));
      for (auto& value : list) {
        value =
            std::remove_reference_t<decltype(value)>(static_cast<float>(size * random.Normal()));
      }
    };
    const auto length = [&](int64_t width) {
      return c.count == 0 ? 0 : c.count * (c.kv_heads * width + c.padding) - c.padding;
    };
    fill(query, c.kv_heads * c.rows * c.head_dim, c.size);
    fill(keys, length(c.head_dim), 1);
    fill(values, length(c.value_dim), 1);
    output.assign(static_cast<size_t>(c.kv_heads * c.rows * c.value_dim), NAN);
    row_max.assign(static_cast<size_t>(c.kv_heads * c.rows), NAN);
    row_sum.assign(static_cast<size_t>(c.kv_heads * c.rows), 0.0f);
    row_weight.assign(row_sum.size(), 0.0f);
  }

  // Of positions [begin, end), by vectors or by matrix tiles.
  void Attend(int64_t begin, int64_t end, bool by_tiles = false) {
    const int64_t key_stride = shape.kv_heads * shape.head_dim + shape.padding;
    const int64_t value_stride = shape.kv_heads * shape.value_dim + shape.padding;
    const KeyValueRows<Element> some{
        {keys.data() + begin * key_stride, key_stride, shape.head_dim},
        {values.data() + begin * value_stride, value_stride, shape.value_dim},
        end - begin};
    const AttentionRows rows{.kv_heads = shape.kv_heads,
                             .rows = shape.rows,
                             .head_dim = shape.head_dim,
                             .value_dim = shape.value_dim,
                             .scale = 0.5f,
                             .query = query.data(),
                             .output = output.data(),
                             .row_max = row_max.data(),
                             .row_sum = row_sum.data(),
                             .row_weight = by_tiles ? row_weight.data() : nullptr};
    if constexpr (std::is_same_v<Element, bf16>) {
      if (by_tiles) return AttendRowsByTiles(some, rows);
    }
    AttendRows(some, rows);
  }

  Case shape;
  std::vector<float> query, output, row_max, row_sum, row_weight;
  std::vector<Element> keys, values;
};

struct Expected {
  std::vector<double> mean;
  double log2_sum = 0;
};

// The definition, in double.
template <class Element>
Expected Define(const Problem<Element>& problem, int64_t head, int64_t row) {
  const Case& c = problem.shape;
  std::vector<double> scores;
  double high = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < c.count; ++j) {
    double dot = 0;
    for (int64_t i = 0; i < c.head_dim; ++i) {
      dot += static_cast<double>(problem.query[(head * c.rows + row) * c.head_dim + i]) *
             static_cast<double>(static_cast<float>(
                 problem.keys[j * (c.kv_heads * c.head_dim + c.padding) + head * c.head_dim + i]));
    }
    scores.push_back(0.5 * dot);
    high = std::max(high, scores.back());
  }
  Expected expected{std::vector<double>(static_cast<size_t>(c.value_dim)), 0};
  double sum = 0;
  for (int64_t j = 0; j < c.count; ++j) {
    const double p = std::exp2(scores[static_cast<size_t>(j)] - high);
    sum += p;
    for (int64_t i = 0; i < c.value_dim; ++i) {
      expected.mean[static_cast<size_t>(i)] +=
          p *
          static_cast<double>(static_cast<float>(
              problem.values[j * (c.kv_heads * c.value_dim + c.padding) + head * c.value_dim + i]));
    }
  }
  for (double& value : expected.mean) value /= sum;
  expected.log2_sum = high + std::log2(sum);
  return expected;
}

// Where weights are rounded, the weights of the mean are up to 2^-9 of each off.
template <class Element>
void Check(const Case& c, uint64_t seed, bool by_tiles = false) {
  SCOPED_TRACE(testing::Message() << "seed " << seed << ": kv_heads " << c.kv_heads << ", rows "
                                  << c.rows << ", head_dim " << c.head_dim << ", value_dim "
                                  << c.value_dim << ", count " << c.count);
  Problem<Element> problem(c, seed);
  if (by_tiles) {
    for (float& value : problem.query) value = static_cast<float>(bf16(value));
  }
  const double bound = by_tiles ? 8e-3 : 1e-5;
  const std::vector<float>& weight = by_tiles ? problem.row_weight : problem.row_sum;
  const int64_t cut = c.count * 2 / 3;
  problem.Attend(0, cut, by_tiles);
  problem.Attend(cut, c.count, by_tiles);
  for (int64_t head = 0; head < c.kv_heads; ++head) {
    for (int64_t row = 0; row < c.rows; ++row) {
      const Expected expected = Define(problem, head, row);
      const auto at = static_cast<size_t>(head * c.rows + row);
      EXPECT_NEAR(problem.row_max[at] + std::log2(problem.row_sum[at]), expected.log2_sum,
                  2e-6 * (1 + std::abs(expected.log2_sum)));
      for (int64_t i = 0; i < c.value_dim; ++i) {
        EXPECT_NEAR(problem.output[at * static_cast<size_t>(c.value_dim) + static_cast<size_t>(i)] /
                        weight[at],
                    expected.mean[static_cast<size_t>(i)], bound);
      }
    }
  }
}

TEST(RowAttention, AgreesWithTheDefinition) {
  Random random(5, 2);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random.Below(static_cast<uint64_t>(limit)));
  };
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const Case c{.kv_heads = 1 + below(9),
                 .rows = below(2) == 0 ? 1 : 1 + below(19),
                 .head_dim = 1 + below(140),
                 .value_dim = 1 + below(140),
                 .count = 1 + below(100),
                 .padding = below(2) * below(20),
                 .size = below(3) == 0 ? 2.0 : 1.0};
    Check<float>(c, seed);
    Check<bf16>(c, seed);
  }
}

TEST(RowAttention, AgreesWithTheDefinitionByTiles) {
  if (!CanAttendByTiles(32, 32)) GTEST_SKIP() << "no matrix tiles on this CPU";
  EXPECT_FALSE(CanAttendByTiles(33, 32));
  EXPECT_FALSE(CanAttendByTiles(32, 16));
  Random random(6, 2);
  const auto below = [&](int64_t limit) {
    return static_cast<int64_t>(random.Below(static_cast<uint64_t>(limit)));
  };
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Check<bf16>({.kv_heads = 1 + below(9),
                 .rows = 1 + below(kMostTileRows),
                 .head_dim = 32 * (1 + below(5)),
                 .value_dim = 32 * (1 + below(5)),
                 .count = 1 + below(300),
                 .padding = below(2) * below(20),
                 .size = below(3) == 0 ? 2.0 : 1.0},
                seed, true);
  }
}

// The reference has to move, up to the last keys.
TEST(RowAttention, RisingScores) {
  for (const int64_t rows : {1, 3}) {
    Problem<float> problem({.rows = rows, .head_dim = 1, .value_dim = 1, .count = 400}, 3);
    for (int64_t j = 0; j < 400; ++j) problem.keys[static_cast<size_t>(j)] = static_cast<float>(j);
    std::fill(problem.query.begin(), problem.query.end(), 2.0f);  // t = j
    problem.Attend(0, 400);
    for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
      EXPECT_NEAR(problem.row_max[row] + std::log2(problem.row_sum[row]), 400.0, 1e-4);
      double expected = 0;
      for (int64_t j = 0; j < 400; ++j) {
        expected += std::exp2(static_cast<double>(j - 400)) *
                    static_cast<double>(problem.values[static_cast<size_t>(j)]);
      }
      EXPECT_NEAR(problem.output[row] / problem.row_sum[row], expected, 1e-5);
    }
  }
}

// Of each row at another pace, some falling, over one call and over many.
TEST(RowAttention, RisingScoresByTiles) {
  if (!CanAttendByTiles(32, 32)) GTEST_SKIP() << "no matrix tiles on this CPU";
  constexpr int64_t kRows = 20;
  constexpr int64_t kCount = 256;
  for (const int64_t step : {kCount, int64_t{50}}) {
    Problem<bf16> problem({.rows = kRows, .head_dim = 32, .value_dim = 32, .count = kCount}, 3);
    std::fill(problem.keys.begin(), problem.keys.end(), bf16(0.0f));
    std::fill(problem.query.begin(), problem.query.end(), 0.0f);
    for (size_t j = 0; j < kCount; ++j) problem.keys[32 * j] = bf16(static_cast<float>(j));
    for (size_t row = 0; row < kRows; ++row) problem.query[32 * row] = static_cast<float>(row) - 5;
    for (int64_t begin = 0; begin < kCount; begin += step) {
      problem.Attend(begin, std::min(begin + step, kCount), true);
    }
    for (int64_t row = 0; row < kRows; ++row) {
      const Expected expected = Define(problem, 0, row);
      const auto at = static_cast<size_t>(row);
      EXPECT_NEAR(problem.row_max[at] + std::log2(problem.row_sum[at]), expected.log2_sum,
                  2e-6 * (1 + std::abs(expected.log2_sum)));
      for (size_t i = 0; i < 32; ++i) {
        EXPECT_NEAR(problem.output[32 * at + i] / problem.row_weight[at], expected.mean[i], 8e-3);
      }
    }
  }
}

TEST(RowAttention, NaNStaysInItsRowByTiles) {
  if (!CanAttendByTiles(32, 32)) GTEST_SKIP() << "no matrix tiles on this CPU";
  constexpr size_t kRows = 18;
  Problem<bf16> problem(
      {.kv_heads = 2, .rows = kRows, .head_dim = 32, .value_dim = 32, .count = 150}, 4);
  problem.keys[17 * 64 + 3] = bf16(NAN);      // of the first kv_head
  problem.query[(kRows + 5) * 32 + 7] = NAN;  // one row of the second
  problem.Attend(0, 150, true);
  for (size_t row = 0; row < 2 * kRows; ++row) {
    const bool is_nan = row < kRows || row == kRows + 5;
    EXPECT_EQ(std::isnan(problem.row_sum[row]), is_nan) << row;
    EXPECT_EQ(std::isnan(problem.output[32 * row]), is_nan) << row;
  }
}

TEST(RowAttention, NaNStaysInItsRow) {
  for (const int64_t rows : {1, 2}) {
    Problem<float> problem({.kv_heads = 2, .rows = rows, .count = 50}, 4);
    problem.keys[17 * 16 + 3] = NAN;  // of the first kv_head
    problem.Attend(0, 50);
    for (size_t row = 0; row < static_cast<size_t>(2 * rows); ++row) {
      EXPECT_EQ(std::isnan(problem.row_sum[row]), row < static_cast<size_t>(rows));
      EXPECT_EQ(std::isnan(problem.output[8 * row]), row < static_cast<size_t>(rows));
    }
  }
}

}  // namespace
}  // namespace ringwise
