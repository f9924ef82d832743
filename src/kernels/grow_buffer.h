#pragma once

#include <cstddef>

#include "ringwise/context.h"

namespace ringwise {

// Makes a workspace `bytes` long or longer. One too short is freed before the next is made, so that
// the two never stand side by side; what it held is lost.
inline void GrowBuffer(MemoryMeter& meter, size_t bytes, Buffer& workspace) {
  if (workspace.size() >= bytes) return;
  workspace = Buffer();
  workspace = Buffer(meter, MemoryCategory::kWorkspace, bytes);
}

}  // namespace ringwise
