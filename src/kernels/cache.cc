#include "kernels/cache.h"

#include <unistd.h>

#include <algorithm>

namespace ringwise {

int64_t SecondCacheBytes() {
  static const int64_t bytes = [] {
    int64_t reported = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return reported > 0 ? reported : int64_t{1} << 20;
  }();
  return bytes;
}

int64_t LastCacheBytes() {
  static const int64_t bytes = [] {
    int64_t reported = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    reported = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return std::max(reported, SecondCacheBytes());
  }();
  return bytes;
}

}  // namespace ringwise
