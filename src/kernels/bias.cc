#include "kernels/bias.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/bias.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <limits>
#include <string>

#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

template <class T>
void AddToRow(const float* HWY_RESTRICT bias, int64_t width, float least, T* HWY_RESTRICT y) {
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto sum = hn::Add(LoadF32(d, y + j), hn::LoadU(d, bias + j));
    // The bound second: a NaN stays one.
    StoreF32(hn::IfThenElse(hn::Lt(sum, hn::Set(d, least)), hn::Set(d, least), sum), d, y + j);
  });
}

template <class T>
void MaskRow(const T* HWY_RESTRICT y, int64_t width, T* HWY_RESTRICT dy) {
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    const auto zero = hn::Zero(d);
    StoreF32(hn::IfThenZeroElse(hn::Eq(LoadF32(d, y + j), zero), LoadF32(d, dy + j)), d, dy + j);
  });
}

template <class T>
void SumRow(const T* HWY_RESTRICT dy, int64_t width, float* HWY_RESTRICT sums) {
  ForEachLane(width, [&](auto d, int64_t j) HWY_ATTR {
    hn::StoreU(hn::Add(LoadF32(d, dy + j), hn::LoadU(d, sums + j)), d, sums + j);
  });
}

void AddToRows(const float* bias, float least, Range rows, const TensorView& y) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    if (y.dtype == DType::kF32) {
      AddToRow(bias, y.shape[1], least, y.at<float>(row));
    } else {
      AddToRow(bias, y.shape[1], least, y.at<bf16>(row));
    }
  }
}

void MaskRows(const ConstTensorView& y, Range rows, const TensorView& dy) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    if (y.dtype == DType::kF32) {
      MaskRow(y.at<float>(row), y.shape[1], dy.at<float>(row));
    } else {
      MaskRow(y.at<bf16>(row), y.shape[1], dy.at<bf16>(row));
    }
  }
}

void SumRows(const ConstTensorView& dy, Range columns, float* sums) {
  for (int64_t row = 0; row < dy.shape[0]; ++row) {
    if (dy.dtype == DType::kF32) {
      SumRow(dy.at<float>(row, columns.begin), columns.size(), sums + columns.begin);
    } else {
      SumRow(dy.at<bf16>(row, columns.begin), columns.size(), sums + columns.begin);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(AddToRows);
HWY_EXPORT(MaskRows);
HWY_EXPORT(SumRows);

constexpr int64_t kLineFloats = 16;

void Check(const ConstTensorView& y, size_t width) {
  if (y.shape.rank() != 2 || static_cast<int64_t>(width) != y.shape[1]) {
    throw ShapeError("a bias of " + std::to_string(width) + " needs rows of that width, found " +
                     y.shape.ToString());
  }
}

void AddAndBound(Context& context, std::span<const float> bias, float least, TensorView y) {
  Check(y, bias.size());
  auto* const add = &HWY_DYNAMIC_DISPATCH(AddToRows);
  context.team.Run([&](int thread) {
    add(bias.data(), least, SplitRange(y.shape[0], context.team.size(), thread), y);
  });
}

}  // namespace

void AddBias(Context& context, std::span<const float> bias, TensorView y) {
  AddAndBound(context, bias, -std::numeric_limits<float>::infinity(), y);
}

void AddBiasRelu(Context& context, std::span<const float> bias, TensorView y) {
  AddAndBound(context, bias, 0, y);
}

void ReluBackward(Context& context, ConstTensorView y, TensorView dy) {
  if (y.shape.rank() != 2 || y.shape != dy.shape || y.dtype != dy.dtype) {
    throw ShapeError("ReLU needs y and dy of one type and shape [rows, width], found " +
                     y.shape.ToString() + " and " + dy.shape.ToString());
  }
  auto* const mask = &HWY_DYNAMIC_DISPATCH(MaskRows);
  context.team.Run(
      [&](int thread) { mask(y, SplitRange(y.shape[0], context.team.size(), thread), dy); });
}

void AddColumnSums(Context& context, ConstTensorView dy, std::span<float> gradient) {
  Check(dy, gradient.size());
  auto* const sum = &HWY_DYNAMIC_DISPATCH(SumRows);
  // Split by columns: each is then summed by one thread, in order.
  context.team.Run([&](int thread) {
    sum(dy, SplitRange(dy.shape[1], context.team.size(), thread, kLineFloats), gradient.data());
  });
}

}  // namespace ringwise
#endif  // HWY_ONCE
