#pragma once

#include "ringwise/mask.h"
#include "ringwise/model_config.h"

namespace ringwise {

// What a token of the model sees in one document: itself and those before it, as far as the model's
// window reaches.
Mask ModelMask(const ModelConfig& config);

}  // namespace ringwise
