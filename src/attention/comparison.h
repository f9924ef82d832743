#pragma once

#include <vector>

#include "ringwise/tensor.h"

// How far two tensors are from each other, in double. For tests only.
namespace ringwise {

// Elements in row order as doubles.
std::vector<double> ToDoubles(ConstTensorView view);

// Largest |actual - expected|: equal infinities differ by 0; infinity if lengths differ or either
// has a NaN.
double LargestError(const std::vector<double>& actual, const std::vector<double>& expected);
double RmsError(const std::vector<double>& actual, const std::vector<double>& expected);
double LargestMagnitude(const std::vector<double>& values);  // of the finite ones

}  // namespace ringwise
