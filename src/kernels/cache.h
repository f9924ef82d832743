#pragma once

#include <cstdint>

namespace ringwise {

// Bytes of a core's second cache, as the system reports it; 1 MiB where it does not.
int64_t SecondCacheBytes();

// Bytes of the last level of caches that the system reports; those of the second where it has no
// third, or does not say.
int64_t LastCacheBytes();

}  // namespace ringwise
