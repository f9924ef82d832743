#pragma once

#include <cstdint>
#include <functional>

#include "training/progress.h"

namespace ringwise {

// For Score: shows how many documents are done and about how long the others will take, where all
// of it takes more than two seconds. `progress` must outlive it.
std::function<void(int64_t done, int64_t in_all)> ShowDocuments(Progress& progress);

}  // namespace ringwise
