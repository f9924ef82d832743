#include "attention/gradient_sum.h"

#include <algorithm>

namespace ringwise {

GradientSum::GradientSum(Context& context, const TensorView& gradient)
    : context_(context), gradient_(gradient), sum_(gradient) {
  if (gradient.dtype != DType::kF32) {
    memory_ = Buffer(context.meter, MemoryCategory::kRingBuffers,
                     static_cast<size_t>(gradient.elements()) * sizeof(float));
    sum_ = TensorView(memory_.data(), DType::kF32, gradient.shape);
  }
  ForEachRow(sum_.shape, [&](int64_t batch, int64_t row, int64_t head) {
    std::fill_n(sum_.at<float>(batch, row, head), sum_.shape[3], 0.0f);
  });
}

template <class Visit>
void GradientSum::ForEachRow(const Shape& shape, const Visit& visit) {
  context_.team.Run([&](int thread) {
    const Range part = SplitRange(shape[0] * shape[1], context_.team.size(), thread);
    for (int64_t index = part.begin; index < part.end; ++index) {
      for (int64_t head = 0; head < shape[2]; ++head) {
        visit(index / shape[1], index % shape[1], head);
      }
    }
  });
}

void GradientSum::Add(Range rows, const ConstTensorView& part) {
  ForEachRow(part.shape, [&](int64_t batch, int64_t row, int64_t head) {
    float* to = sum_.at<float>(batch, rows.begin + row, head);
    const float* from = part.at<float>(batch, row, head);
    for (int64_t i = 0; i < part.shape[3]; ++i) to[i] += from[i];
  });
}

void GradientSum::Finish() {
  if (gradient_.dtype == DType::kF32) return;
  ForEachRow(sum_.shape, [&](int64_t batch, int64_t row, int64_t head) {
    const float* from = sum_.at<float>(batch, row, head);
    DispatchDType(gradient_.dtype, [&]<class T>(T) {
      T* to = gradient_.at<T>(batch, row, head);
      for (int64_t i = 0; i < gradient_.shape[3]; ++i) to[i] = T(from[i]);
    });
  });
}

}  // namespace ringwise
