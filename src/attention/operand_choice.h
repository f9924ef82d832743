#pragma once

#include <cstdint>
#include <type_traits>

#include "attention/shard_attention.h"
#include "kernels/tile_kernels.h"

namespace ringwise {

// Whether a bf16 call multiplies in f32 all the same. Products in bf16 round every probability;
// where a handful of them dominate a row, that shows in the output and, through delta, in dq and
// dk: over few keys, and with heads so short that scores spread widely (where the exponential and
// not the product takes the time). And calls this small take no time either way.
inline bool MultipliesInF32(const AttentionShape& shape, int64_t q_len, int64_t kv_len) {
  constexpr int64_t kShortHeads = 16;
  constexpr int64_t kFewKeys = 64;
  constexpr int64_t kSmallWork = int64_t{1} << 24;  // multiplications of one product
  return shape.head_dim <= kShortHeads || kv_len <= kFewKeys ||
         shape.batch * shape.heads * q_len * kv_len * shape.head_dim < kSmallWork;
}

// Calls function(kernels) with the tile kernels of the call's operands.
template <class Storage, class Function>
void WithTileKernels(const AttentionShape& shape, int64_t q_len, int64_t kv_len,
                     const Function& function) {
  if constexpr (std::is_same_v<Storage, bf16>) {
    const TileKernels<bf16>* native = NativeBf16TileKernels();
    if (native != nullptr && !MultipliesInF32(shape, q_len, kv_len)) return function(*native);
  }
  function(FloatTileKernels());
}

}  // namespace ringwise
