// The float tile kernels, once for every instruction set that Highway knows; chosen at run time.
#include <algorithm>
#include <cstdint>

#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

#if defined(__aarch64__)  // vectors of unknown size cannot be elements of the register tile
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/tile_kernels_f32.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/product_gradient_f32-inl.h"
#include "kernels/score_gradient_f32-inl.h"
#include "kernels/softmax_f32-inl.h"
#include "kernels/tile_product_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

void ScaleColumns(const float* factors, int rows, float* matrix) {
  const D d;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < kPanel; column += kWidth) {
      float* at = matrix + row * kPanel + column;
      hn::StoreU(hn::Mul(hn::LoadU(d, factors + column), hn::LoadU(d, at)), d, at);
    }
  }
}

void PackTransposed(const float* source, int64_t stride, int rows, int length, float* packed) {
  constexpr int kStride = kPackedStride<float>;
  Transpose(source, stride, rows, length, packed, kStride);
  if (rows == kPanel) return;
  for (int i = 0; i < length; ++i)
    std::fill(packed + i * kStride + rows, packed + i * kStride + kPanel, 0.0f);
}

void PackRows(const float* source, int64_t stride, int rows, int length, int64_t panel_stride,
              float* packed) {
  for (int begin = 0; begin < length; begin += kPanel) {
    const int columns = std::min(kPanel, length - begin);
    for (int row = 0; row < rows; ++row) {
      float* to = packed + row * kPackedStride<float>;
      std::copy_n(source + row * stride + begin, columns, to);
      std::fill(to + columns, to + kPackedStride<float>, 0.0f);
    }
    packed += panel_stride;
  }
}

const TileKernels<float>* Kernels() {
  static constexpr TileKernels<float> kKernels = {
      .product = &Product,
      .product_depth = kRowGroup<float>,
      .score_maxima = &AnyScoreMaxima,
      .softmax = &AnySoftmax,
      .product_softmax = &AnyProductSoftmax,
      .softmax_gradient = &AnySoftmaxGradient,
      .product_softmax_gradient = &AnyProductSoftmaxGradient,
      .scale_columns = &ScaleColumns,
      .pack_transposed = &PackTransposed,
      .pack_rows = &PackRows,
  };
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(Kernels);

const TileKernels<float>& FloatTileKernels() { return *HWY_DYNAMIC_DISPATCH(Kernels)(); }

}  // namespace ringwise
#endif
