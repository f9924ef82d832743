#include "attention/comparison.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace ringwise {

std::vector<double> ToDoubles(ConstTensorView view) {
  std::vector<double> values;
  values.reserve(view.elements());
  // Missing axes have extent 1 and stride 0.
  std::array<int64_t, Shape::kMaxRank> extent{1, 1, 1, 1};
  for (int axis = 0; axis < view.shape.rank(); ++axis) extent[axis] = view.shape[axis];
  const auto& s = view.strides;
  DispatchDType(view.dtype, [&]<class T>(T) {
    const T* data = view.data<T>();
    for (int64_t a = 0; a < extent[0]; ++a) {
      for (int64_t b = 0; b < extent[1]; ++b) {
        for (int64_t c = 0; c < extent[2]; ++c) {
          for (int64_t d = 0; d < extent[3]; ++d) {
            values.push_back(static_cast<float>(data[a * s[0] + b * s[1] + c * s[2] + d * s[3]]));
          }
        }
      }
    }
  });
  return values;
}

double LargestError(const std::vector<double>& actual, const std::vector<double>& expected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (actual.size() != expected.size()) return kInfinity;
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    const double error = std::abs(actual[i] - expected[i]);
    if (std::isnan(error)) return kInfinity;
    largest = std::max(largest, error);
  }
  return largest;
}

double RmsError(const std::vector<double>& actual, const std::vector<double>& expected) {
  const double largest = LargestError(actual, expected);
  if (std::isinf(largest)) return largest;
  double sum = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] != expected[i]) sum += (actual[i] - expected[i]) * (actual[i] - expected[i]);
  }
  return actual.empty() ? 0 : std::sqrt(sum / static_cast<double>(actual.size()));
}

double LargestMagnitude(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

}  // namespace ringwise
