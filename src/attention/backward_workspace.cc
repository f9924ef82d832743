#include "attention/backward_workspace.h"

#include <algorithm>

#include "kernels/cache.h"

namespace ringwise {

int64_t BackwardTileRows(const AttentionShape& shape, int64_t q_len, int threads) {
  constexpr int64_t kUnit = 2 * kBackwardStep;
  constexpr int64_t kMost = 4 * kUnit;
  constexpr int64_t kTilesOfThread = 8;
  const int64_t element = shape.dtype == DType::kF32 ? sizeof(float) : sizeof(bf16);
  // Keys, values, keys transposed and dS as factors; dk and dv.
  const int64_t row_bytes = (2 * shape.head_dim + shape.value_dim + kBackwardQueryBlock) * element +
                            (shape.head_dim + shape.value_dim) * int64_t{sizeof(float)};
  const int64_t cached = SecondCacheBytes() * 3 / 2 / row_bytes;
  const int64_t shared = shape.batch * shape.kv_heads * q_len / (kTilesOfThread * threads);
  return std::clamp(std::min(cached, shared) / kUnit * kUnit, kUnit, kMost);
}

}  // namespace ringwise
