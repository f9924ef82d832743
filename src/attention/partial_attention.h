#pragma once

#include <cstdint>
#include <limits>

namespace ringwise {

// Attention of some rows over some of the keys, as a value. With t = log2(e) * score:
//   row_max = a reference, near the largest t           row_sum    = sum_j 2^(t_j - row_max)
//   output  = sum_j p_j v_j                             row_weight = sum_j p_j
// where p_j is 2^(t_j - row_max) rounded to the type that multiplied v_j: output / row_weight is
// then a mean with slightly wrong weights, rather than weights that do not add up to 1.
// row_sum 0: nothing seen yet, and output is undefined.
struct PartialAttention {
  float* output = nullptr;  // [rows, head_dim of the values]
  float* row_max = nullptr;
  float* row_sum = nullptr;
  int64_t rows = 0;
  int64_t head_dim = 0;
  float* row_weight = nullptr;  // null: the same as row_sum, because nothing is rounded
  int64_t output_stride = 0;    // distance of output's rows; 0: head_dim

  int64_t Stride() const { return output_stride == 0 ? head_dim : output_stride; }
  float* Output(int64_t row) const { return output + row * Stride(); }
  PartialAttention Part(int64_t begin, int64_t count) const {
    return {Output(begin), row_max + begin, row_sum + begin,
            count,         head_dim,        row_weight == nullptr ? nullptr : row_weight + begin,
            output_stride};
  }
};

// state = state and partial together: over the keys of both. The order of merges decides the last
// bits, so callers keep it fixed. NaN rows stay NaN; rows that saw nothing reach nothing, whatever
// their output holds.
void Merge(const PartialAttention& partial, const PartialAttention& state);

// The same for a partial of at most 64 rows whose output is transposed: [head_dim, rows], lines
// output_stride apart.
void MergeTransposed(const PartialAttention& partial, const PartialAttention& state);

// What a merged row means, with a sink of this logit beside its keys; -inf: none. A row that saw
// nothing has factor 0 and the sink as logsumexp.
struct RowResult {
  float factor = 0;  // output = factor * partial output
  float logsumexp = 0;
};
RowResult Normalise(float row_max, float row_sum, float row_weight, float sink);
inline RowResult Normalise(float row_max, float row_sum) {
  return Normalise(row_max, row_sum, row_sum, -std::numeric_limits<float>::infinity());
}

}  // namespace ringwise
