#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "attention/partial_attention.h"
#include "attention/tiling.h"
#include "kernels/tile_kernels.h"

namespace ringwise {

// A panel of queries on its way over the keys, in forward's workspace of one thread:
//
//   row_sum  = sum_j 2^(score_j - row_max)        over the keys j seen so far, a value a column
//   output   = sum_j 2^(score_j - row_max) v_j    transposed, [value_dim][kPanel]
//
// row_max is a reference rather than the maximum: it moves, and the output is rescaled, only when a
// score exceeds it by more than some slack, so that scores are normally looked at once.
template <class Operand>
struct ForwardPanel {
  static constexpr float kNothingSeen = -std::numeric_limits<float>::infinity();
  // Keys by whose largest score a reference is found. From one or two, as at a window's edge, it
  // would often be so low that every tile would be computed twice.
  static constexpr int kEnoughKeys = 16;

  RowBlock queries;
  Operand* query = nullptr;  // packed [head_dim rounded up to kRowGroup][kPackedStride]
  float* output = nullptr;
  float row_max[kPanel];  // kNothingSeen: no key yet
  float row_sum[kPanel];
  float row_weight[kPanel];  // as row_sum, of the probabilities as rounded to Operand
  int columns = 0;
  uint64_t young = 0;  // the columns that have seen fewer than kEnoughKeys, a bit each
  int seen[kPanel];    // keys, of the young ones

  // For other queries, which have seen nothing.
  void Start(const RowBlock& of, int value_dim) {
    queries = of;
    columns = static_cast<int>(of.count());
    std::fill_n(output, value_dim * kPanel, 0.0f);
    std::fill_n(row_sum, kPanel, 0.0f);
    std::fill_n(row_weight, kPanel, 0.0f);
    std::fill_n(row_max, kPanel, kNothingSeen);
    std::fill_n(seen, kPanel, 0);
    young = ~uint64_t{0} >> (kPanel - columns);
  }

  // Rows that have seen enough of other blocks need not look for a reference again, and their parts
  // then merge without being rescaled. A sum so high takes many keys, or one that the reference was
  // too low for by no more than may be.
  void TakeReferences(const PartialAttention& state) {
    for (int i = 0; i < columns; ++i) {
      if (!(state.row_sum[i] >= kEnoughKeys) || !std::isfinite(state.row_max[i])) continue;
      row_max[i] = state.row_max[i];
      young &= ~(uint64_t{1} << i);
    }
  }

  // The references as kernels take them: hidden scores of columns that have seen nothing then give
  // no NaN.
  void FiniteReferences(float* references) const {
    for (int i = 0; i < kPanel; ++i) {
      references[i] = row_max[i] == kNothingSeen ? 0.0f : row_max[i];
    }
  }

  // The references of young columns become the largest score that they have seen, with these scores
  // of largest `maxima`. Where something was seen before, `excess` says by how much they have to
  // move for that; returns whether any has to.
  bool Discover(const ScoreTile& scores, const float* maxima, float* excess) {
    CountSeen(scores);
    std::fill_n(excess, kPanel, 0.0f);
    bool moves = false;
    for (int i = 0; i < columns; ++i) {
      if ((young >> i & 1) == 0) continue;
      if (row_max[i] == kNothingSeen) {
        row_max[i] = maxima[i];
      } else {
        excess[i] = maxima[i] - row_max[i];
        moves |= excess[i] > 0;
      }
      const bool found = row_max[i] != kNothingSeen;
      if (found && seen[i] >= kEnoughKeys) young &= ~(uint64_t{1} << i);
    }
    return moves;
  }

  // The references of columns whose largest score exceeds them by more than `slack` become that
  // score.
  void MoveReferences(const TileKernels<Operand>& kernels, int value_dim, const float* excess,
                      float slack) {
    float factors[kPanel];
    std::fill_n(factors, kPanel, 1.0f);
    for (int i = 0; i < columns; ++i) {
      if (!(excess[i] > slack)) continue;
      const float moved = row_max[i] + excess[i];
      factors[i] = std::exp2(row_max[i] - moved);
      row_max[i] = moved;
      row_sum[i] *= factors[i];
      row_weight[i] *= factors[i];
    }
    kernels.scale_columns(factors, value_dim, output);
  }

  void AddSums(const float* sums, const float* weights) {
    for (int i = 0; i < columns; ++i) {
      row_sum[i] += sums[i];
      row_weight[i] += weights[i];
    }
  }

 private:
  void CountSeen(const ScoreTile& scores) {
    if (scores.visible == nullptr) {
      for (int& count : seen) count += scores.rows;
      return;
    }
    for (int key = 0; key < scores.rows; ++key) {
      uint64_t left = scores.visible[key] & young;
      for (; left != 0; left &= left - 1) ++seen[std::countr_zero(left)];
    }
  }
};

}  // namespace ringwise
