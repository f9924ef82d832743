// The products of few rows with keys for CPUs with AVX-512 BF16 products: see tile_kernels_bf16.cc.
#include "kernels/row_scores_bf16.h"

#include "kernels/avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 warns of its own header's deliberately undefined vectors.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

namespace ringwise {
namespace {

constexpr int64_t kElements = 2 * kRowScoreLanes;  // of a vector
constexpr int kBlock = 4;                          // rows, and keys, whose sums stay in registers

// Of the elements that `mask` has.
template <int kRows, int kKeys>
[[gnu::always_inline]] inline void Step(const bf16* query, const bf16* keys, int64_t stride,
                                        int64_t length, __mmask32 mask,
                                        __m512 (&sums)[kRows][kKeys]) {
  __m512bh right[kKeys];
#pragma GCC unroll 4
  for (int key = 0; key < kKeys; ++key)
    right[key] = (__m512bh)_mm512_maskz_loadu_epi16(mask, keys + key * stride);
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    const __m512bh left = (__m512bh)_mm512_maskz_loadu_epi16(mask, query + row * length);
#pragma GCC unroll 4
    for (int key = 0; key < kKeys; ++key) {
      sums[row][key] = _mm512_dpbf16_ps(sums[row][key], left, right[key]);
    }
  }
}

template <int kRows, int kKeys>
[[gnu::always_inline]] inline void Multiply(const bf16* query, const bf16* keys, int64_t stride,
                                            int64_t length, float* lanes, int64_t row_lanes) {
  __m512 sums[kRows][kKeys];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int key = 0; key < kKeys; ++key) sums[row][key] = _mm512_setzero_ps();
  }
  int64_t i = 0;
  for (; i + kElements <= length; i += kElements) {
    Step(query + i, keys + i, stride, length, ~__mmask32{0}, sums);
  }
  if (i < length) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << (length - i)) - 1);
    Step(query + i, keys + i, stride, length, mask, sums);
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int key = 0; key < kKeys; ++key) {
      _mm512_storeu_ps(lanes + row * row_lanes + key * kRowScoreLanes, sums[row][key]);
    }
  }
}

template <int kRows>
void MultiplyRows(const bf16* query, const bf16* keys, int64_t stride, int64_t count,
                  int64_t length, float* lanes) {
  const int64_t row_lanes = count * kRowScoreLanes;
  int64_t key = 0;
  for (; key + kBlock <= count; key += kBlock) {
    Multiply<kRows, kBlock>(query, keys + key * stride, stride, length,
                            lanes + key * kRowScoreLanes, row_lanes);
  }
  for (; key < count; ++key) {
    Multiply<kRows, 1>(query, keys + key * stride, stride, length, lanes + key * kRowScoreLanes,
                       row_lanes);
  }
}

void MultiplyKeys(const bf16* query, int64_t rows, const bf16* keys, int64_t stride, int64_t count,
                  int64_t length, float* lanes) {
  switch (rows) {
    case 1:
      return MultiplyRows<1>(query, keys, stride, count, length, lanes);
    case 2:
      return MultiplyRows<2>(query, keys, stride, count, length, lanes);
    case 3:
      return MultiplyRows<3>(query, keys, stride, count, length, lanes);
    default:
      return MultiplyRows<kBlock>(query, keys, stride, count, length, lanes);
  }
}

}  // namespace
}  // namespace ringwise

#pragma GCC pop_options
#pragma GCC diagnostic pop

namespace ringwise {

RowScores NativeBf16RowScores() {
  // The compiler's run-time check includes whether the system saves the wide registers.
  static const bool kSupported = MayUseAvx512() && __builtin_cpu_supports("avx512bf16");
  return kSupported ? &MultiplyKeys : nullptr;
}

}  // namespace ringwise

#else

namespace ringwise {

RowScores NativeBf16RowScores() { return nullptr; }

}  // namespace ringwise

#endif
