#include "transformer/model_mask.h"

namespace ringwise {

Mask ModelMask(const ModelConfig& config) {
  Mask mask = {.causal = true};
  if (config.window > 0) mask.window_left = config.window - 1;
  return mask;
}

std::shared_ptr<const std::vector<MaskSlice>> SlicesOfHeads(const std::vector<MaskSlice>& slices,
                                                            Range heads) {
  auto some = std::make_shared<std::vector<MaskSlice>>();
  for (MaskSlice slice : slices) {
    if (slice.head) {
      if (*slice.head < heads.begin || *slice.head >= heads.end) continue;
      *slice.head -= heads.begin;
    }
    some->push_back(slice);
  }
  return some;
}

}  // namespace ringwise
