#include "attention/score_terms.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>

#include "attention/attention_checks.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

namespace ringwise {
namespace {

// The elements of one head, the first query's first; broadcast axes have stride 0.
template <class View>
auto HeadBias(const View& view, int64_t batch, int64_t head, int64_t query, int64_t& stride) {
  const auto index = [&](int axis, int64_t i) { return view.shape[axis] == 1 ? 0 : i; };
  stride = view.shape[2] == 1 ? 0 : view.strides[2];
  return view.template at<float>(index(0, batch), index(1, head), index(2, query));
}

}  // namespace

ScoreTerms::ScoreTerms(const AttentionShape& shape, const AttentionOptions& options)
    : modifier_(Scale(shape, options), options.softcap),
      capped_(options.softcap != 0),
      alibi_slopes_(options.alibi_slopes),
      bias_(options.bias) {
  assert(alibi_slopes_.empty() || static_cast<int64_t>(alibi_slopes_.size()) == shape.heads);
}

void ScoreTerms::Apply(int64_t batch, int64_t head, const RowBlock& queries, const RowBlock& keys,
                       float* scores, float* slopes, float* added, uint64_t* visible) const {
  const auto rows = static_cast<int>(keys.count());
  const auto columns = static_cast<int>(queries.count());
  const auto width = static_cast<int>(RoundUp(columns, kLanes));
  const bool adds = bias_ || !alibi_slopes_.empty();
  if (bias_) {
    GatherBias(batch, head, queries, keys, added);
    HideMinusInfinity(added, rows, columns, visible);
  } else if (adds) {
    std::fill_n(added, rows * kPanel, 0.0f);
  }
  if (!alibi_slopes_.empty()) {
    SubtractAlibi(alibi_slopes_[head], queries.positions, keys.positions, added);
  }
  // Columns without a query keep the scores of zeros: kernels look at them, too.
  for (int row = 0; adds && columns < width && row < rows; ++row) {
    std::fill(added + row * kPanel + columns, added + row * kPanel + width, 0.0f);
  }
  modifier_.Apply(rows, columns, adds ? added : nullptr, scores, slopes);
}

void ScoreTerms::GatherBias(int64_t batch, int64_t head, const RowBlock& queries,
                            const RowBlock& keys, float* added) const {
  int64_t stride = 0;
  const PositionRun& run = keys.positions;
  const float* from = HeadBias(*bias_, batch, head, queries.begin, stride) + run.start;
  assert(run.start >= 0 && run.last() < bias_->shape[3]);
  const int64_t columns = queries.count();
  if (stride == 0) {
    for (int64_t row = 0; row < run.count; ++row) {
      std::fill_n(added + row * kPanel, kPanel, from[row * run.stride]);
    }
  } else if (run.stride == 1) {
    Transpose(from, stride, columns, run.count, added, kPanel);
  } else {
    for (int64_t row = 0; row < run.count; ++row) {
      const float* element = from + row * run.stride;
      for (int64_t c = 0; c < columns; ++c) added[row * kPanel + c] = element[c * stride];
    }
  }
}

void ScoreTerms::SubtractAlibi(float slope, const PositionRun& queries, const PositionRun& keys,
                               float* added) const {
  constexpr int64_t kExact = int64_t{1} << 24;  // whole numbers up to here are floats
  const int64_t first = queries.start - keys.start;
  const auto rows = static_cast<int>(keys.count);
  if (keys.stride < kExact / kPanel && queries.stride < kExact / kPanel &&
      std::abs(first) + keys.count * keys.stride + kPanel * queries.stride < kExact) {
    SubtractDistances(slope, static_cast<float>(first), static_cast<float>(keys.stride),
                      static_cast<float>(queries.stride), rows, static_cast<int>(queries.count),
                      added);
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < queries.count; ++c) {
      const auto distance = static_cast<double>(std::abs(queries[c] - keys[row]));
      added[row * kPanel + c] -= static_cast<float>(static_cast<double>(slope) * distance);
    }
  }
}

void AddBiasGradient(int64_t batch, int64_t head, const RowBlock& queries, const RowBlock& keys,
                     const float* gradient, const TensorView& bias_gradient) {
  int64_t stride = 0;
  const PositionRun& run = keys.positions;
  float* to = HeadBias(bias_gradient, batch, head, queries.begin, stride) + run.start;
  const int64_t columns = queries.count();
  if (stride == 0) {
    for (int64_t row = 0; row < run.count; ++row) {
      double sum = 0;
      for (int64_t c = 0; c < columns; ++c) sum += gradient[row * kPanel + c];
      to[row * run.stride] += static_cast<float>(sum);
    }
    return;
  }
  for (int64_t c = 0; c < columns; ++c) {
    float* row_gradient = to + c * stride;
    for (int64_t row = 0; row < run.count; ++row) {
      row_gradient[row * run.stride] += gradient[row * kPanel + c];
    }
  }
}

}  // namespace ringwise
