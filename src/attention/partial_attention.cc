#include "attention/partial_attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

namespace ringwise {

namespace {

// What the outputs of a row are multiplied by before they are added.
struct MergeFactors {
  float keep = 1;
  float add = 1;
};

// Merges the statistics of a row of which both have seen keys.
MergeFactors MergeRow(const PartialAttention& partial, const PartialAttention& state, int64_t row) {
  const float high = std::max(state.row_max[row], partial.row_max[row]);
  // Parts that took their references from the state have the same.
  const auto factor = [&](float row_max) {
    return row_max == high ? 1.0f : std::exp2(row_max - high);
  };
  const MergeFactors factors{factor(state.row_max[row]), factor(partial.row_max[row])};
  state.row_max[row] = high;
  state.row_sum[row] = factors.keep * state.row_sum[row] + factors.add * partial.row_sum[row];
  if (state.row_weight != nullptr) {
    state.row_weight[row] =
        factors.keep * state.row_weight[row] + factors.add * partial.row_weight[row];
  }
  return factors;
}

void CopyStatistics(const PartialAttention& partial, const PartialAttention& state, int64_t row) {
  state.row_max[row] = partial.row_max[row];
  state.row_sum[row] = partial.row_sum[row];
  if (state.row_weight != nullptr) state.row_weight[row] = partial.row_weight[row];
}

}  // namespace

void Merge(const PartialAttention& partial, const PartialAttention& state) {
  assert((state.row_weight == nullptr) == (partial.row_weight == nullptr));
  for (int64_t row = 0; row < state.rows; ++row) {
    if (partial.row_sum[row] == 0) continue;
    const float* from = partial.Output(row);
    float* to = state.Output(row);
    if (state.row_sum[row] == 0) {
      std::copy_n(from, state.head_dim, to);
      CopyStatistics(partial, state, row);
      continue;
    }
    const auto [keep, add] = MergeRow(partial, state, row);
    for (int64_t i = 0; i < state.head_dim; ++i) to[i] = keep * to[i] + add * from[i];
  }
}

void MergeTransposed(const PartialAttention& partial, const PartialAttention& state) {
  assert(state.rows <= kPanel);
  const bool begun =
      std::any_of(state.row_sum, state.row_sum + state.rows, [](float sum) { return sum != 0; });
  if (!begun) {
    for (int64_t row = 0; row < state.rows; ++row) CopyStatistics(partial, state, row);
    Transpose(partial.output, partial.Stride(), state.head_dim, state.rows, state.output,
              state.Stride());
    return;
  }
  float keep[kPanel];
  float add[kPanel];
  for (int64_t row = 0; row < state.rows; ++row) {
    if (partial.row_sum[row] == 0) continue;
    MergeFactors factors;
    if (state.row_sum[row] == 0) {
      std::fill_n(state.Output(row), state.head_dim, 0.0f);
      CopyStatistics(partial, state, row);
    } else {
      factors = MergeRow(partial, state, row);
    }
    keep[row] = factors.keep;
    add[row] = factors.add;
  }
  // Run by run of the rows that saw something: what the others hold may be anything.
  for (int64_t begin = 0; begin < state.rows;) {
    int64_t end = begin;
    while (end < state.rows && partial.row_sum[end] != 0) ++end;
    if (begin < end) {
      AddTransposed(partial.output + begin, partial.Stride(), state.head_dim, end - begin,
                    add + begin, keep + begin, state.Output(begin), state.Stride());
    }
    begin = end + 1;
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
