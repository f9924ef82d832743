#include "ringwise/cpu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "kernels/peak.h"
#include "kernels/read_bandwidth.h"
#include "kernels/tile_kernels.h"

namespace ringwise {
namespace {

TEST(Cpu, NamesFeaturesOnceAndAgreesAboutBf16) {
  std::vector<std::string> features = CpuFeatures();
  const auto has = [&](const char* name) { return std::ranges::count(features, name) > 0; };
  EXPECT_EQ(HasNativeBf16(), has("avx512_bf16") || has("amx_bf16") || has("bf16"));
  std::ranges::sort(features);
  EXPECT_EQ(std::ranges::adjacent_find(features), features.end());
  EXPECT_FALSE(VectorTarget().empty());
  EXPECT_EQ(std::ranges::count(OneDnnVersion(), '.'), 2);
  EXPECT_EQ(std::ranges::count(HighwayVersion(), '.'), 2);
}

#if defined(__x86_64__)
// In a process of its own, which has computed nothing yet.
TEST(CpuDeathTest, WithoutNewerInstructionsNoKernelHasThem) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "no AVX2";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto limited = [] {
    LimitToAvx2();
    return VectorTarget() == "AVX2" && !HasNativeBf16() && NativeBf16TileKernels() == nullptr;
  };
  EXPECT_EXIT(std::exit(limited() ? 0 : 1), testing::ExitedWithCode(0), "");
}
#endif

// The kernels do the work they claim: the value that comes out is a function of every sum.
TEST(Peak, KernelsComputeEveryRound) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const PeakKernel& kernel : PeakKernelsFor(dtype)) {
      // Twelve sums a lane, which begin at 0/16 ... 11/16.
      const float begin = kernel.run(0), one = kernel.run(1), two = kernel.run(2);
      const float lanes = begin / (66.0f / 16);
      EXPECT_TRUE(lanes >= 1 && lanes == std::round(lanes));
      const auto products = static_cast<float>(kernel.flops_per_round) / 2;
      if (products == 24 * lanes) {  // dot products of pairs of ones
        EXPECT_EQ(one, begin + products);
        EXPECT_EQ(two, begin + 2 * products);
      } else {  // s = 0.75 s + 0.25
        EXPECT_EQ(products, 12 * lanes);
        EXPECT_EQ(one, 0.75f * begin + 0.25f * products);
        EXPECT_EQ(two, 0.75f * one + 0.25f * products);
      }
    }
  }
}

TEST(Peak, TilesComputeEveryRound) {
  const PeakKernel kernel = TilePeakKernel();
  EXPECT_EQ(kernel.run != nullptr, AmxTileKernels() != nullptr);
  if (kernel.run == nullptr) return;
  for (const int64_t rounds : {0, 1, 3}) {  // of products of ones
    EXPECT_EQ(kernel.run(rounds), static_cast<float>(rounds * kernel.flops_per_round / 2));
  }
}

TEST(Peak, IsPositiveForAnyTeam) {
  for (const int threads : {1, 3}) {
    ThreadTeam team(threads);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const FlopRate rate = MeasurePeakFlops(team, dtype, 0.01);
      EXPECT_TRUE(std::isfinite(rate.best) && std::isfinite(rate.sustained));
      EXPECT_GT(rate.best, 1e8);
      EXPECT_GT(rate.sustained, 1e8);
    }
  }
}

TEST(ReadBandwidth, ReadsEveryWord) {
  for (const size_t at : {size_t{0}, size_t{1023}, size_t{1024}, size_t{2047}, size_t{4095}}) {
    std::vector<uint32_t> words(4096, 1);
    words[at] = 5;
    EXPECT_EQ(ReadWords(words), 5u) << at;
  }
}

}  // namespace
}  // namespace ringwise
