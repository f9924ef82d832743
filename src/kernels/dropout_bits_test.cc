#include "kernels/dropout_bits.h"

#include <gtest/gtest.h>

#include <vector>

#include "hwy/targets.h"

namespace ringwise {
namespace {

void Check(const Dropout& dropout, const PositionRun& queries, const PositionRun& keys) {
  const DropoutStream stream(dropout, 3, 5);
  std::vector<uint64_t> kept(keys.count + 1, 7);
  DropoutBits(stream, queries, keys, kept.data());
  for (int64_t row = 0; row < keys.count; ++row) {
    uint64_t expected = 0;
    for (int64_t i = 0; i < queries.count; ++i) {
      if (stream.Keeps(queries[i], keys[row])) expected |= uint64_t{1} << i;
    }
    ASSERT_EQ(kept[row], expected)
        << "queries " << queries.start << "+" << queries.count << "*" << queries.stride << ", key "
        << keys[row] << ", p " << dropout.probability;
  }
  EXPECT_EQ(kept[keys.count], 7u) << "overwritten";
}

TEST(DropoutBits, EqualTheDefinition) {
  constexpr int64_t kHalf = int64_t{1} << 32;
  const Dropout dropout{.probability = 0.3, .seed = 17};
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    for (int64_t count = 0; count <= 64; ++count) {
      Check(dropout, {1000 + count, count, 1}, {77, 9, 1});
    }
    Check(dropout, {5, 64, 3}, {0, 50, 7});
    // High halves that change within a run, of queries, of keys, and at every step; and negative.
    Check(dropout, {kHalf - 13, 64, 1}, {kHalf - 4, 9, 1});
    Check(dropout, {kHalf - 100, 50, 3}, {3 * kHalf - 20, 9, 5});
    Check(dropout, {7, 40, kHalf + 3}, {-5, 9, kHalf / 2});
    Check(dropout, {-30, 64, 1}, {-4, 9, 1});
    Check(dropout, {-(int64_t{1} << 40) - 3, 33, kHalf / 8}, {1, 3, 1});
    // The least and the largest probability.
    Check({.probability = 0, .seed = 1}, {0, 64, 1}, {0, 8, 1});
    Check({.probability = 0x1p-33, .seed = 1}, {0, 64, 1}, {0, 8, 1});
    Check({.probability = 1 - 0x1p-53, .seed = 1}, {0, 64, 1}, {0, 8, 1});
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace
}  // namespace ringwise
