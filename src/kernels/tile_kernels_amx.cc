// The bf16 tile kernels for CPUs with AMX: the products by its tiles, the rest by AVX-512 BF16,
// which every such CPU has. Compiled for these whatever the flags, and only handed out where the
// CPU and the system have them.
//
// Headers that others share come before the pragma: their inline functions, of which the linker
// keeps one copy for all, must not have these instructions.
#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/amx.h"
#include "kernels/lines_ahead.h"
#include "kernels/register_tiles.h"
#include "kernels/tile_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 warns of its own header's deliberately undefined vectors.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")

#include "kernels/amx_gradient-inl.h"
#include "kernels/amx_product-inl.h"
#include "kernels/amx_softmax-inl.h"

#pragma GCC pop_options
#pragma GCC diagnostic pop

namespace ringwise {

const TileKernels<bf16>* AmxTileKernels() {
  static const bool kSupported = MayUseAmx() && DotBf16TileKernels() != nullptr;
  if (!kSupported) return nullptr;
  static const TileKernels<bf16> kKernels = [] {
    TileKernels<bf16> kernels = *DotBf16TileKernels();
    kernels.product = &amx::Product;
    kernels.product_depth = amx::kDepth;
    kernels.product_softmax = &amx::AnyProductSoftmax;
    kernels.product_softmax_gradient = &amx::AnyProductSoftmaxGradient;
    return kernels;
  }();
  return &kKernels;
}

}  // namespace ringwise

#else

namespace ringwise {

const TileKernels<bf16>* AmxTileKernels() { return nullptr; }

}  // namespace ringwise

#endif

namespace ringwise {

const TileKernels<bf16>* NativeBf16TileKernels() {
  static const TileKernels<bf16>* const kBest =
      AmxTileKernels() != nullptr ? AmxTileKernels() : DotBf16TileKernels();
  return kBest;
}

}  // namespace ringwise
