#include "transformer/model_mask.h"

namespace ringwise {

Mask ModelMask(const ModelConfig& config) {
  Mask mask = {.causal = true};
  if (config.window > 0) mask.window_left = config.window - 1;
  return mask;
}

}  // namespace ringwise
