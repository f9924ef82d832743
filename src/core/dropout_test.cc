#include "ringwise/dropout.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ringwise {
namespace {

constexpr int64_t kFar = (int64_t{1} << 32) + 7;

// Counts within five standard deviations of what independent coins give.
TEST(Dropout, DropsItsShareAndNeighboursAreIndependent) {
  for (const double probability : {0.0, 0.1, 0.5, 0.9}) {
    const Dropout dropout{.probability = probability, .seed = 3};
    constexpr int kSide = 400;
    const double share = 1 - probability;
    double kept = 0, with_next_key = 0, with_next_query = 0, with_next_head = 0;
    for (int64_t i = 0; i < kSide; ++i) {
      for (int64_t j = 0; j < kSide; ++j) {
        const int here = Keeps(dropout, 0, 0, i, j) ? 1 : 0;
        kept += here;
        with_next_key += here * (Keeps(dropout, 0, 0, i, j + 1) ? 1 : 0);
        with_next_query += here * (Keeps(dropout, 0, 0, i + 1, j) ? 1 : 0);
        with_next_head += here * (Keeps(dropout, 0, 1, i, j) ? 1 : 0);
      }
    }
    const double pairs = kSide * kSide;
    const auto close = [&](double count, double expected_share) {
      const double deviation = std::sqrt(pairs * expected_share * (1 - expected_share));
      // Pairs of neighbours overlap, which widens their spread a little.
      EXPECT_NEAR(count, pairs * expected_share, 8 * deviation) << probability;
    };
    close(kept, share);
    close(with_next_key, share * share);
    close(with_next_query, share * share);
    close(with_next_head, share * share);
  }
}

TEST(Dropout, DependsOnEverythingThatItShould) {
  const Dropout base{.probability = 0.5, .seed = 1};
  const auto differs = [&](const Dropout& other, int64_t batch, int64_t head, int64_t query,
                           int64_t key) {
    int different = 0;
    for (int64_t n = 0; n < 64; ++n) {
      different += Keeps(base, 0, 0, n, 5) != Keeps(other, batch, head, query + n, key + 5) ? 1 : 0;
    }
    return different > 10;
  };
  EXPECT_FALSE(differs(base, 0, 0, 0, 0));
  EXPECT_TRUE(differs({.probability = 0.5, .seed = 2}, 0, 0, 0, 0));
  EXPECT_TRUE(differs(base, 1, 0, 0, 0));
  EXPECT_TRUE(differs(base, 0, 1, 0, 0));
  EXPECT_TRUE(differs(base, 0, 0, kFar, 0));
  EXPECT_TRUE(differs(base, 0, 0, 0, kFar));
  EXPECT_TRUE(differs(base, 0, 0, 0, -3));
}

TEST(Dropout, PartsOfABatchAndOfTheHeadsAgreeWithTheWhole) {
  const Dropout whole{.probability = 0.5, .seed = 9};
  const Dropout part{.probability = 0.5, .seed = 9, .first_batch = 2, .first_head = 3};
  for (int64_t n = 0; n < 64; ++n) {
    EXPECT_EQ(Keeps(whole, 3, 4, n, 1), Keeps(part, 1, 1, n, 1));
  }
}

}  // namespace
}  // namespace ringwise
