// The bf16 tile kernels for CPUs with AVX-512 BF16 products, which Highway has no operation for.
// Compiled for that instruction set whatever the flags, and only handed out where the CPU has it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/avx512.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 warns of its own header's deliberately undefined vectors.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

#include "kernels/product_gradient_bf16-inl.h"
#include "kernels/score_gradient_bf16-inl.h"
#include "kernels/softmax_bf16-inl.h"
#include "kernels/tile_product_bf16-inl.h"

namespace ringwise {
namespace native_bf16 {
namespace {

void PackTransposed(const bf16* source, int64_t stride, int rows, int length, bf16* packed) {
  const auto row_bytes = static_cast<int64_t>(stride * sizeof(bf16));
  if (rows < kPanel) std::fill_n(packed, (length + 1) / 2 * 2 * kPanel, bf16{});
  TransposeWords(source, row_bytes, rows, length / 2, packed, kPanel);
  if (length % 2 == 0) return;
  bf16* last = packed + (length - 1) * kPanel;
  for (int row = 0; row < rows; ++row) {
    last[2 * row] = source[row * stride + length - 1];
    last[2 * row + 1] = bf16{};
  }
}

void PackRows(const bf16* source, int64_t stride, int rows, int length, int64_t panel_stride,
              bf16* packed) {
  for (int begin = 0; begin < length; begin += kPanel) {
    for (int row = 0; row < rows; row += 2) {
      for (int column = 0; column < kPanel; column += kLanes) {
        const int left = std::clamp(length - begin - column, 0, kLanes);
        const auto lanes = static_cast<__mmask16>((1u << left) - 1u);
        const bf16* from = source + row * stride + begin + column;
        const __m256i first = _mm256_maskz_loadu_epi16(lanes, from);
        const __m256i second = row + 1 < rows ? _mm256_maskz_loadu_epi16(lanes, from + stride)
                                              : _mm256_setzero_si256();
        const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
        _mm512_storeu_si512(packed + row * kPanel + 2 * column, Pair(halves));
      }
    }
    packed += panel_stride;
  }
}

void ScaleColumns(const float* factors, int rows, float* matrix) {
  for (int i = 0; i < rows * kPanel; i += kLanes) {
    _mm512_storeu_ps(matrix + i, _mm512_mul_ps(_mm512_loadu_ps(factors + i % kPanel),
                                               _mm512_loadu_ps(matrix + i)));
  }
}

constexpr TileKernels<bf16> kKernels = {
    .product = &Product,
    .product_depth = kRowGroup<bf16>,
    .score_maxima = &AnyScoreMaxima,
    .softmax = &AnySoftmax,
    .product_softmax = &AnyProductSoftmax,
    .softmax_gradient = &AnySoftmaxGradient,
    .product_softmax_gradient = &AnyProductSoftmaxGradient,
    .scale_columns = &ScaleColumns,
    .pack_transposed = &PackTransposed,
    .pack_rows = &PackRows,
};

}  // namespace
}  // namespace native_bf16
}  // namespace ringwise

#pragma GCC pop_options
#pragma GCC diagnostic pop

namespace ringwise {

const TileKernels<bf16>* DotBf16TileKernels() {
  // The compiler's run-time check includes whether the system saves the wide registers.
  static const bool kSupported = MayUseAvx512() && __builtin_cpu_supports("avx512bf16");
  return kSupported ? &native_bf16::kKernels : nullptr;
}

}  // namespace ringwise

#else

namespace ringwise {

const TileKernels<bf16>* DotBf16TileKernels() { return nullptr; }

}  // namespace ringwise

#endif
