#pragma once

// The product alone by AMX tiles: a part of tile_kernels_amx.cc.
#include <algorithm>
#include <cstdint>

#include "kernels/amx_tiles-inl.h"
#include "kernels/amx_units-inl.h"

namespace ringwise::amx {

// Adds a unit's sums to c.
class AddUnit {
 public:
  AddUnit(float* c, int64_t ldc, int columns, const UnitSums* sums)
      : c_(c), ldc_(ldc), columns_(columns), buffers_(sums) {}

  static bool Skips(const Unit&) { return false; }
  [[gnu::always_inline]] void Start(const Unit& unit, int buffer) {
    to_ = c_ + unit.row * ldc_ + unit.column;
    second_ = unit.column + kColumns < columns_;
    sums_ = buffers_[buffer].sums;
  }
  // Rows `row` and, if it is kWhole, the next.
  template <bool kWhole>
  [[gnu::always_inline]] void Pair(int row) {
    Row(row);
    if constexpr (kWhole) Row(row + 1);
  }
  void End() const {}

 private:
  [[gnu::always_inline]] void Row(int row) {
    float* to = to_ + row * ldc_;
    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), SumsAt(sums_, row, 0)));
    if (!second_) return;
    to += kColumns;
    _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), SumsAt(sums_, row, 1)));
  }

  float* const c_;
  const int64_t ldc_;
  const int columns_;
  const UnitSums* const buffers_;
  float* to_ = nullptr;
  const float* sums_ = nullptr;
  bool second_ = false;  // whether the unit has a second vector of columns
};

// Tiles could begin with what c holds, but then every pair of the depth would be rounded to a
// multiple of the last place of c, which may have grown large: the sums are made first, then added.
inline void AddProduct(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int m, int n, int k,
                       float* c, int64_t ldc) {
  UnitSums sums[2];
  AddUnit work(c, ldc, n, sums);
  LinesAhead none;
  ForEachUnit(
      m, n, k,
      [&](const Unit& unit, int buffer, const auto& between) __attribute__((always_inline)) {
        const Factors of{a + unit.row * lda, lda,         b + 2 * unit.column, ldb, k,
                         sums[buffer].sums,  kUnitColumns};
        MultiplyBlock(of, unit.rows, std::min(n - unit.column, kUnitColumns), between);
      },
      work, none);
}

inline void SetProduct(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int m, int n, int k,
                       float* c, int64_t ldc) {
  // Rows of a stay in the nearest cache for all columns.
  ForEachBlock(m, k, [&](int row, int rows) {
    const Factors of{a + row * lda, lda, b, ldb, k, c + row * ldc, ldc};
    MultiplyBlock(of, rows, n, [] {});
  });
}

inline void Product(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int m, int n, int k,
                    float* c, int64_t ldc, bool accumulate) {
  accumulate ? AddProduct(a, lda, b, ldb, m, n, k, c, ldc)
             : SetProduct(a, lda, b, ldb, m, n, k, c, ldc);
}

}  // namespace ringwise::amx
