#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>

#include "ringwise/context.h"
#include "ringwise/random.h"
#include "ringwise/tensor.h"

namespace ringwise {

inline constexpr int64_t kWidths[] = {1, 2, 7, 16, 33, 128, 257};  // around the vector lengths
inline constexpr int64_t kRows = 5;

// What the tests of layers' kernels share: a team of three, both storage types, strided rows.
class LayerKernels : public testing::TestWithParam<DType> {
 protected:
  // A view whose rows are 3 elements further apart than they are wide.
  TensorView Random2D(int64_t rows, int64_t width, float scale, float mean = 0) {
    tensors_.emplace_back(meter_, MemoryCategory::kWorkspace, GetParam(), Shape{rows, width + 3});
    TensorView view = tensors_.back().view();
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < width + 3; ++j) Set(view, row, j, mean + scale * random_.Normal());
    }
    return view.Slice(1, 0, width);
  }
  static double Get(const ConstTensorView& view, int64_t row, int64_t j) {
    return view.dtype == DType::kF32 ? *view.at<float>(row, j)
                                     : static_cast<float>(*view.at<bf16>(row, j));
  }
  static void Set(TensorView view, int64_t row, int64_t j, float value) {
    if (view.dtype == DType::kF32) {
      *view.at<float>(row, j) = value;
    } else {
      *view.at<bf16>(row, j) = bf16(value);
    }
  }
  // Half a unit in the last place of the storage type, and a few of f32 for the arithmetic.
  double Tolerance(double magnitude) const {
    return magnitude * (GetParam() == DType::kF32 ? 2e-6 : 0x1p-8);
  }

  MemoryMeter meter_;
  ThreadTeam team_{3};
  Context context_{team_, meter_};
  Random random_{11, 0};
  std::deque<Tensor> tensors_;
};

}  // namespace ringwise
