#include "kernels/peak.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "ringwise/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/peak.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Twelve sums: more than latency times throughput on every CPU known (4 cycles, 2 a cycle), and
// they fit sixteen registers beside the operands. Each tends to 1, so nothing overflows or becomes
// denormal.
constexpr int64_t kSums = 12;

float MultiplyAdd(int64_t rounds) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, 0.75f);
  const auto y = hn::Set(d, 0.25f);
  // They begin different: equal sums the compiler would compute once.
  auto s0 = hn::Set(d, 0.0f), s1 = hn::Set(d, 0.0625f), s2 = hn::Set(d, 0.125f),
       s3 = hn::Set(d, 0.1875f), s4 = hn::Set(d, 0.25f), s5 = hn::Set(d, 0.3125f);
  auto s6 = hn::Set(d, 0.375f), s7 = hn::Set(d, 0.4375f), s8 = hn::Set(d, 0.5f),
       s9 = hn::Set(d, 0.5625f), s10 = hn::Set(d, 0.625f), s11 = hn::Set(d, 0.6875f);
  for (int64_t round = 0; round < rounds; ++round) {
    s0 = hn::MulAdd(s0, x, y);
    s1 = hn::MulAdd(s1, x, y);
    s2 = hn::MulAdd(s2, x, y);
    s3 = hn::MulAdd(s3, x, y);
    s4 = hn::MulAdd(s4, x, y);
    s5 = hn::MulAdd(s5, x, y);
    s6 = hn::MulAdd(s6, x, y);
    s7 = hn::MulAdd(s7, x, y);
    s8 = hn::MulAdd(s8, x, y);
    s9 = hn::MulAdd(s9, x, y);
    s10 = hn::MulAdd(s10, x, y);
    s11 = hn::MulAdd(s11, x, y);
  }
  const auto a = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(s4, s5));
  const auto b = hn::Add(hn::Add(hn::Add(s6, s7), hn::Add(s8, s9)), hn::Add(s10, s11));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(a, b)));
}

PeakKernel Kernel() {
  const auto lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  return {&MultiplyAdd, 2 * kSums * lanes};
}
const char* Target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#if HWY_ARCH_X86
#include <immintrin.h>

#include "kernels/amx.h"
#include "kernels/amx_tiles-inl.h"
#endif

namespace ringwise {

HWY_EXPORT(Kernel);
HWY_EXPORT(Target);

namespace {

#if HWY_ARCH_X86
// Highway 1.0.3 has no target with these instructions.
__attribute__((target("avx512f,avx512bf16"))) float DotBf16(int64_t rounds) {
  constexpr int kSums = 12;
  const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));  // 1.0
  __m512 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i) / 16);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, x, x);
  }
  __m512 total = sums[0];
  for (int i = 1; i < kSums; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm512_reduce_add_ps(total);
}
constexpr int64_t kDotFlopsPerRound = int64_t{12} * 16 * 4;

// As many sums as hide the latency of a tile's products, of ones.
float TileProducts(int64_t rounds) {
  alignas(64) uint16_t ones[amx::kRows * amx::kDepth];
  std::ranges::fill(ones, uint16_t{0x3f80});
  alignas(64) float sums[4][amx::kRows * amx::kColumns];
  constexpr int64_t kRowBytes = 64;
  amx::AfterStores();
  const amx::Shapes shapes(amx::kBlockRows, amx::kDepth);
  amx::Load<4>(ones, kRowBytes);
  amx::Load<5>(ones, kRowBytes);
  amx::Load<6>(ones, kRowBytes);
  amx::Load<7>(ones, kRowBytes);
  for (int64_t round = 0; round < rounds; ++round) {
    amx::MultiplyAdd<0, 4, 6>();
    amx::MultiplyAdd<1, 4, 7>();
    amx::MultiplyAdd<2, 5, 6>();
    amx::MultiplyAdd<3, 5, 7>();
  }
  amx::Store<0>(sums[0], kRowBytes);
  amx::Store<1>(sums[1], kRowBytes);
  amx::Store<2>(sums[2], kRowBytes);
  amx::Store<3>(sums[3], kRowBytes);
  return std::accumulate(&sums[0][0], &sums[0][0] + std::size(sums) * std::size(sums[0]), 0.0f);
}
constexpr int64_t kTileFlopsPerRound = int64_t{4} * 2 * amx::kRows * amx::kColumns * amx::kDepth;
#endif

}  // namespace

std::vector<PeakKernel> PeakKernelsFor(DType dtype) {
  std::vector<PeakKernel> kernels = {HWY_DYNAMIC_DISPATCH(Kernel)()};
#if HWY_ARCH_X86
  if (dtype == DType::kBF16) {
    const std::vector<std::string> features = CpuFeatures();
    if (std::ranges::find(features, "avx512_bf16") != features.end()) {
      kernels.push_back({&DotBf16, kDotFlopsPerRound});
    }
  }
#endif
  return kernels;
}

PeakKernel TilePeakKernel() {
#if HWY_ARCH_X86
  if (MayUseAmx()) return {&TileProducts, kTileFlopsPerRound};
#endif
  return {};
}

std::string HighwayVersion() {
  return std::to_string(HWY_MAJOR) + '.' + std::to_string(HWY_MINOR) + '.' +
         std::to_string(HWY_PATCH);
}

std::string_view VectorTarget() { return HWY_DYNAMIC_DISPATCH(Target)(); }

}  // namespace ringwise

#endif  // HWY_ONCE
