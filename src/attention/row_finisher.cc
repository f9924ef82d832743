#include "attention/row_finisher.h"

#include <algorithm>
#include <limits>

namespace ringwise {

void RowFinisher::Finish(const PartialAttention& state, int64_t batch, int64_t head,
                         int64_t first) const {
  const float sink = sinks_ ? *sinks_->at<float>(head) : -std::numeric_limits<float>::infinity();
  DispatchDType(outputs_.output.dtype, [&]<class T>(T) {
    for (int64_t row = 0; row < state.rows; ++row) {
      const float sum = state.row_sum[row];
      const float weight = state.row_weight == nullptr ? sum : state.row_weight[row];
      const RowResult result = Normalise(state.row_max[row], sum, weight, sink);
      *outputs_.logsumexp.at<float>(batch, head, first + row) = result.logsumexp;
      T* to = outputs_.output.at<T>(batch, first + row, head);
      if (sum == 0) {
        std::fill_n(to, state.head_dim, T(0.0f));
        continue;
      }
      const float factor = result.factor * kept_factor_;
      const float* from = state.Output(row);
      for (int64_t i = 0; i < state.head_dim; ++i) to[i] = T(factor * from[i]);
    }
  });
}

}  // namespace ringwise
