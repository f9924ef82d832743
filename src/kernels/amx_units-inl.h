#pragma once

// What the AMX kernels share that work at their products: a part of tile_kernels_amx.cc.
//
// Products are made in units of 32 rows and 32 columns, as many as the tile registers sum at once,
// and left in the nearest cache. While the tiles multiply a unit, which keeps their own part of the
// core busy, the vector units work at the one before: a few rows after each step.
#include <algorithm>
#include <cstdint>

#include "kernels/amx_tiles-inl.h"
#include "kernels/lines_ahead.h"
#include "kernels/register_tiles.h"

namespace ringwise::amx {

inline constexpr int kUnitColumns = 2 * kColumns;

struct Unit {
  int row = 0;   // the first
  int rows = 0;  // at most kBlockRows
  int column = 0;
};

// Goes over the units of `rows` rows and `columns` columns: multiply(unit, buffer, between) makes
// the products of one in buffer 0 or 1 and calls between() a few times, work.Start(unit, buffer)
// and work.Pair<whole>(row) do the rest, two rows at a time, in order, and work.End() ends it. A
// unit that work.Skips(unit), which then has its result, is not multiplied.
template <class Multiply, class Work>
[[gnu::always_inline]] inline void ForEachUnit(int rows, int columns, int k,
                                               const Multiply& multiply, Work& work,
                                               LinesAhead& ahead) {
  int buffer = 0;
  Unit before;  // the unit that `work` is at; none has no rows
  int done = 0;
  const auto advance = [&](int end) __attribute__((always_inline)) {
    for (end = std::min(end, before.rows - 1); done < end; done += 2) {
      work.template Pair<true>(done);
      if (done % kTileRows == 0) ahead.Fetch();
    }
  };
  const auto finish = [&]() __attribute__((always_inline)) {
    if (before.rows == 0) return;
    advance(kBlockRows);
    if (before.rows % 2 != 0) work.template Pair<false>(before.rows - 1);
    work.End();
  };
  ForEachBlock(
      rows, k, [&](int row, int count) __attribute__((always_inline)) {
        for (int column = 0; column < columns; column += kUnitColumns) {
          const Unit unit{row, count, column};
          if (work.Skips(unit)) continue;
          multiply(
              unit, buffer, [&]() __attribute__((always_inline)) { advance(done + 2); });
          finish();
          before = unit;
          done = 0;
          work.Start(unit, buffer);
          buffer = 1 - buffer;
        }
      });
  finish();
}

// Whether no row of a unit sees any of its columns, as beside a causal diagonal.
inline bool Hidden(const Unit& unit, const uint64_t* visible) {
  constexpr uint64_t kAll = (uint64_t{1} << kUnitColumns) - 1;
  uint64_t seen = 0;
  for (int row = unit.row; row < unit.row + unit.rows; ++row) seen |= visible[row];
  return (seen >> unit.column & kAll) == 0;
}

// Clears where a unit's elements lie in a packed panel.
inline void ClearPacked(const Unit& unit, bf16* panel) {
  for (int row = unit.row; row < unit.row + unit.rows; row += kRowGroup<bf16>) {
    std::fill_n(panel + PackedIndex<bf16>(row, unit.column, kPanel), kRowGroup<bf16> * kUnitColumns,
                bf16{});
  }
}

// Sums of one unit, as MultiplyBlock leaves them.
struct alignas(64) UnitSums {
  float sums[kBlockRows * kUnitColumns];
};
[[gnu::always_inline]] inline __m512 SumsAt(const float* sums, int row, int vector) {
  return _mm512_load_ps(sums + row * kUnitColumns + vector * kLanes);
}

// sums = left right, for a unit's rows of `left` and columns of `right`, a packed panel.
template <class Between>
[[gnu::always_inline]] inline void MultiplyUnit(const PanelFactors<bf16>& factors, const Unit& unit,
                                                UnitSums& sums, const Between& between) {
  const Factors of{factors.left + unit.row * factors.stride,
                   factors.stride,
                   factors.right + 2 * unit.column,
                   kPanel,
                   factors.k,
                   sums.sums,
                   kUnitColumns};
  MultiplyBlock(of, unit.rows, kUnitColumns, between);
}

}  // namespace ringwise::amx
