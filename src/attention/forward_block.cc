#include "attention/forward_block.h"

#include "kernels/cache.h"
#include "kernels/tile_kernels.h"

namespace ringwise {

int64_t ForwardQueryBlock(const AttentionShape& shape, int64_t q_len, int threads) {
  constexpr int64_t kFewestPanels = 2;
  constexpr int64_t kBlocksAThread = 4;
  const auto element = static_cast<int64_t>(SizeOf(shape.dtype));
  const int64_t panel =
      kPanel * (shape.head_dim * element + shape.value_dim * static_cast<int64_t>(sizeof(float)));
  const int64_t tile = kKeyChunk * (shape.head_dim + shape.value_dim + kPanel) * element;
  const int64_t fit = (SecondCacheBytes() - tile) / panel;
  const int64_t to_deal = shape.batch * shape.heads * q_len / (kPanel * kBlocksAThread * threads);
  return kPanel * std::clamp<int64_t>(std::min(fit, to_deal), kFewestPanels, kMostForwardPanels);
}

}  // namespace ringwise
