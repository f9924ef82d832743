#pragma once

#include <cstdint>

namespace ringwise {

// Bytes of a core's second cache, as the system reports it; 1 MiB where it does not.
int64_t SecondCacheBytes();

}  // namespace ringwise
