#pragma once

#include <memory>
#include <vector>

#include "ringwise/mask.h"
#include "ringwise/model_config.h"
#include "ringwise/thread_team.h"

namespace ringwise {

// What a token of the model sees in one document: itself and those before it, as far as the model's
// window reaches.
Mask ModelMask(const ModelConfig& config);

// The slices of some query heads, which become heads 0, 1, ...
std::shared_ptr<const std::vector<MaskSlice>> SlicesOfHeads(const std::vector<MaskSlice>& slices,
                                                            Range heads);

}  // namespace ringwise
