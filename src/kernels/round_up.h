#pragma once

#include <cstdint>

namespace ringwise {

inline int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace ringwise
