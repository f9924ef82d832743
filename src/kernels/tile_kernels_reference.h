#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/tile_kernels.h"

// The definitions of tile_kernels.h in double, one element at a time. For tests only.
namespace ringwise {

inline double ToDouble(float value) { return value; }
inline double ToDouble(bf16 value) { return static_cast<float>(value); }

template <class Operand>
double ReferenceProduct(const Operand* a, int64_t lda, const Operand* b, int64_t ldb, int row,
                        int column, int k) {
  double sum = 0;
  for (int i = 0; i < k; ++i) {
    sum += ToDouble(a[row * lda + i]) * ToDouble(b[PackedIndex<Operand>(i, column, ldb)]);
  }
  return sum;
}

inline bool ReferenceVisible(const ScoreTile& tile, int row, int column) {
  return tile.visible == nullptr || (tile.visible[row] >> column & 1) != 0;
}
inline bool ReferenceKept(const ScoreTile& tile, int row, int column) {
  return tile.kept == nullptr || (tile.kept[row] >> column & 1) != 0;
}

// scale * score; -inf where hidden.
inline double ReferenceScore(const ScoreTile& tile, int row, int column) {
  if (!ReferenceVisible(tile, row, column)) return -std::numeric_limits<double>::infinity();
  return static_cast<double>(tile.scale) * tile.scores[row * kPanel + column];
}

inline double ReferenceMaximum(const ScoreTile& tile, int column) {
  double high = -std::numeric_limits<double>::infinity();
  for (int row = 0; row < tile.rows; ++row) {
    high = std::max(high, ReferenceScore(tile, row, column));
  }
  return high;
}

inline double ReferenceProbability(const ScoreTile& tile, int row, int column, double reference) {
  return std::exp2(ReferenceScore(tile, row, column) - reference);
}

}  // namespace ringwise
