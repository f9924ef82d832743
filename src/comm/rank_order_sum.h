#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace ringwise {

// destination[i] = ((sources[0][i] + sources[1][i]) + sources[2][i]) + ... for i in [0, count). The
// one place that fixes the order, so that threads and MPI give the same bits. destination may be
// one of the sources.
template <class T>
void SumInRankOrder(std::span<const T* const> sources, int64_t count, T* destination) {
  std::array<T, 512> sum;  // small enough to stay in the first cache
  for (int64_t begin = 0; begin < count; begin += std::ssize(sum)) {
    const int64_t length = std::min<int64_t>(std::ssize(sum), count - begin);
    std::copy_n(sources[0] + begin, length, sum.data());
    for (size_t rank = 1; rank < sources.size(); ++rank) {
      const T* source = sources[rank] + begin;
      for (int64_t i = 0; i < length; ++i) sum[i] += source[i];
    }
    std::copy_n(sum.data(), length, destination + begin);
  }
}

}  // namespace ringwise
