#include "attention/query_statistics.h"

#include <cmath>
#include <limits>
#include <numbers>

namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

QueryStatistics::QueryStatistics(Context& context, const AttentionShape& shape,
                                 const AttentionSaved& saved)
    : context_(context),
      shape_(shape),
      saved_(saved),
      q_len_(saved.output.shape[1]),
      logsumexp_(context.meter, MemoryCategory::kActivations,
                 shape.batch * shape.heads * q_len_ * sizeof(float)),
      delta_(context.meter, MemoryCategory::kActivations,
             shape.batch * shape.heads * q_len_ * sizeof(float)) {
  DispatchDType(shape.dtype, [&]<class Input>(Input) {
    DispatchDType(saved.output.dtype, [&]<class Output>(Output) {
      context.team.Run([&](int thread) {
        const Range part = SplitRange(shape_.batch * q_len_, context_.team.size(), thread);
        for (int64_t index = part.begin; index < part.end; ++index) {
          for (int64_t head = 0; head < shape_.heads; ++head) {
            Prepare<Input, Output>(index / q_len_, index % q_len_, head);
          }
        }
      });
    });
  });
}

template <class Input, class Output>
void QueryStatistics::Prepare(int64_t batch, int64_t row, int64_t head) {
  const int64_t index = (batch * shape_.heads + head) * q_len_ + row;
  const float logsumexp = *saved_.logsumexp.at<float>(batch, head, row);
  float& base2 = logsumexp_.as<float>()[index];
  float& delta = delta_.as<float>()[index];
  if (logsumexp == -kInfinity) {
    base2 = kInfinity;
    delta = 0;
    return;
  }
  base2 = static_cast<float>(static_cast<double>(logsumexp) * std::numbers::log2e);
  const Input* d_output = saved_.output_gradient.at<Input>(batch, row, head);
  const Output* output = saved_.output.at<Output>(batch, row, head);
  double sum = 0;
  for (int64_t i = 0; i < shape_.value_dim; ++i) {
    sum += static_cast<double>(static_cast<float>(d_output[i])) *
           static_cast<double>(static_cast<float>(output[i]));
  }
  if (saved_.logsumexp_gradient) {
    sum -= static_cast<double>(*saved_.logsumexp_gradient->at<float>(batch, head, row));
  }
  delta = static_cast<float>(sum);
}

void QueryStatistics::SumSinkGradients(const ConstTensorView& sinks,
                                       const TensorView& sink_gradients) const {
  context_.team.ForEach(shape_.heads, [&](int64_t head, int) {
    const double sink = static_cast<double>(*sinks.at<float>(head));
    double sum = 0;
    for (int64_t batch = 0; batch < shape_.batch; ++batch) {
      const float* delta = this->delta() + (batch * shape_.heads + head) * q_len_;
      for (int64_t row = 0; row < q_len_; ++row) {
        const float logsumexp = *saved_.logsumexp.at<float>(batch, head, row);
        if (logsumexp == -kInfinity) continue;
        sum -= std::exp(sink - static_cast<double>(logsumexp)) * static_cast<double>(delta[row]);
      }
    }
    *sink_gradients.at<float>(head) = static_cast<float>(sum);
  });
}

}  // namespace ringwise
