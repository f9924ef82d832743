#pragma once

#include "ringwise/trainer.h"

namespace ringwise {

// What Validate checks of a classification task's options alone. Throws UsageError naming the flag:
// out of range, or of another task or network and so without effect.
void ValidateClassify(const TrainOptions& options);

}  // namespace ringwise
