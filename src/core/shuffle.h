#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "ringwise/random.h"

namespace ringwise {

// Puts the values in a random order, any as likely as any other (Fisher-Yates).
template <class T>
void Shuffle(std::vector<T>& values, Random random) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.Below(i)]);
}

}  // namespace ringwise
