#include "attention/partial_attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

namespace ringwise {

void Merge(const PartialAttention& partial, const PartialAttention& state) {
  const int64_t head_dim = state.head_dim;
  assert((state.row_weight == nullptr) == (partial.row_weight == nullptr));
  const bool weighs = state.row_weight != nullptr;
  for (int64_t row = 0; row < state.rows; ++row) {
    if (partial.row_sum[row] == 0) continue;
    const float* from = partial.Output(row);
    float* to = state.Output(row);
    if (state.row_sum[row] == 0) {
      std::copy_n(from, head_dim, to);
      state.row_max[row] = partial.row_max[row];
      state.row_sum[row] = partial.row_sum[row];
      if (weighs) state.row_weight[row] = partial.row_weight[row];
      continue;
    }
    const float high = std::max(state.row_max[row], partial.row_max[row]);
    const float keep = std::exp2(state.row_max[row] - high);
    const float add = std::exp2(partial.row_max[row] - high);
    for (int64_t i = 0; i < head_dim; ++i) to[i] = keep * to[i] + add * from[i];
    state.row_max[row] = high;
    state.row_sum[row] = keep * state.row_sum[row] + add * partial.row_sum[row];
    if (weighs) {
      state.row_weight[row] = keep * state.row_weight[row] + add * partial.row_weight[row];
    }
  }
}

RowResult Normalise(float row_max, float row_sum, float row_weight, float sink) {
  if (row_sum == 0) return {0.0f, sink};
  // In double and from the larger of the two, so that neither overflows.
  const double sink_base2 = static_cast<double>(sink) * std::numbers::log2e;
  const double high = std::max(static_cast<double>(row_max), sink_base2);
  const double share = std::exp2(row_max - high);
  const double sink_share = std::exp2(sink_base2 - high);
  const double log2_sum = high + std::log2(share * row_sum + sink_share);
  return {static_cast<float>(share / (share * row_weight + sink_share)),
          static_cast<float>(log2_sum * std::numbers::ln2)};
}

}  // namespace ringwise
