#include "transformer/embedding.h"

#include "kernels/convert.h"

namespace ringwise {
namespace {

constexpr int64_t kLineFloats = 16;

}  // namespace

void EmbedForward(Context& context, const Parameter& embedding, std::span<const int32_t> tokens,
                  TensorView x) {
  const int64_t hidden = x.shape[1];
  DispatchDType(x.dtype, [&]<class T>(T) {
    context.team.Run([&](int thread) {
      const Range rows = SplitRange(x.shape[0], context.team.size(), thread);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        Convert(embedding.value.data<float>() + tokens[row] * hidden, x.at<T>(row), hidden);
      }
    });
  });
}

void EmbedAdd(Context& context, const Parameter& embedding, std::span<const int32_t> tokens,
              TensorView x) {
  const int64_t hidden = x.shape[1];
  DispatchDType(x.dtype, [&]<class T>(T) {
    context.team.Run([&](int thread) {
      const Range rows = SplitRange(x.shape[0], context.team.size(), thread);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        if (tokens[row] < 0) continue;
        const float* const from = embedding.value.data<float>() + tokens[row] * hidden;
        T* const to = x.at<T>(row);
        for (int64_t i = 0; i < hidden; ++i) to[i] = T(static_cast<float>(to[i]) + from[i]);
      }
    });
  });
}

void EmbedBackward(Context& context, std::span<const int32_t> tokens, ConstTensorView x_gradient,
                   Parameter& embedding) {
  const int64_t hidden = x_gradient.shape[1];
  DispatchDType(x_gradient.dtype, [&]<class T>(T) {
    // Split by columns: a token's row is then summed by one thread, in order.
    context.team.Run([&](int thread) {
      const Range columns = SplitRange(hidden, context.team.size(), thread, kLineFloats);
      for (int64_t row = 0; row < x_gradient.shape[0]; ++row) {
        if (tokens[row] < 0) continue;
        const T* from = x_gradient.at<T>(row);
        float* to = embedding.gradient.data<float>() + tokens[row] * hidden;
        for (int64_t i = columns.begin; i < columns.end; ++i) to[i] += static_cast<float>(from[i]);
      }
    });
  });
}

}  // namespace ringwise
