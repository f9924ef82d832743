#pragma once

// AMX tiles and the products of blocks that they make: a part of tile_kernels_amx.cc.
//
// A tile register holds 16 rows of 64 bytes: 16 x 16 sums in f32, 16 x 32 elements of the left
// factor, or 32 x 16 of the right one in pairs of rows, which is how right factors are packed
// anyway. Eight registers make 32 x 32 sums at once from two left and two right tiles; where the
// depth is no multiple of 32, 32 x 16 of them, so that there are registers of the last tiles'
// shape.
#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/tile_kernels.h"

namespace ringwise::amx {

inline constexpr int kRows = 16;     // of a left tile and of sums
inline constexpr int kColumns = 16;  // of a right tile and of sums
inline constexpr int kDepth = 32;    // of either factor
inline constexpr int kBlockRows = 2 * kRows;

template <int kTile>
[[gnu::always_inline]] inline void Load(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(kTile));
}
template <int kTile>
[[gnu::always_inline]] inline void Store(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(kTile) : "memory");
}
template <int kTile>
[[gnu::always_inline]] inline void Zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
// sums += left right
template <int kSums, int kLeft, int kRight>
[[gnu::always_inline]] inline void MultiplyAdd() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLeft), "i"(kRight));
}

// Nothing is loaded into tiles before what was stored above is in memory.
[[gnu::always_inline]] inline void AfterStores() { asm volatile("" ::: "memory"); }

// The shapes of the tile registers, which belong to a thread while this object lives. Their setting
// takes 200 cycles: once for as many products as may be.
class Shapes {
 public:
  // For MultiplyBlock with `rows` <= kBlockRows rows and depth `k`.
  Shapes(int rows, int k) {
    const int tail = k % kDepth;
    const std::array<int, 2> rows_of = {std::min(rows, kRows), std::max(rows - kRows, 0)};
    const auto set = [this](int tile, int tile_rows, int row_bytes) {
      config_.rows[tile] = static_cast<uint8_t>(tile_rows);
      config_.row_bytes[tile] = static_cast<uint16_t>(tile_rows == 0 ? 0 : row_bytes);
    };
    constexpr int kFull = 64;  // bytes
    for (int i = 0; i < 2; ++i) {
      if (tail == 0) {
        set(2 * i, rows_of[i], kFull);
        set(2 * i + 1, rows_of[i], kFull);
        set(4 + i, rows_of[i], kFull);
        set(6 + i, kDepth / 2, kFull);
      } else {
        set(i, rows_of[i], kFull);
        set(2 + i, rows_of[i], kFull);
        set(5 + i, rows_of[i], 2 * tail);
      }
    }
    if (tail != 0) {
      set(4, kDepth / 2, kFull);
      set(7, tail / 2, kFull);
    }
    asm volatile("ldtilecfg %0" ::"m"(config_));
  }
  // Without tiles in use a switch of threads saves less.
  ~Shapes() { asm volatile("tilerelease"); }
  Shapes(const Shapes&) = delete;
  Shapes& operator=(const Shapes&) = delete;

 private:
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  Config config_;
};

// What a block's product reads and writes: c [rows, columns] = a [rows, k] b [k, columns],
// `columns` rounded up to whole tiles.
struct Factors {
  const bf16* a = nullptr;  // rows `lda` apart
  int64_t lda = 0;
  const bf16* b = nullptr;  // packed, `ldb` columns
  int64_t ldb = 0;
  int k = 0;
  float* c = nullptr;  // rows `ldc` apart
  int64_t ldc = 0;
};

// `kLeft` (1 or 2) tiles of rows times `kRight` (1 or 2; 1 where the depth is no multiple of
// kDepth) tiles of columns from `column` on. Calls between() after every step of the depth.
template <int kLeft, int kRight, bool kTail, class Between>
[[gnu::always_inline]] inline void MultiplyTiles(const Factors& of, int column,
                                                 const Between& between) {
  static_assert(!kTail || kRight == 1);
  constexpr int kA = kTail ? 2 : 4;  // the first register of each kind
  constexpr int kB = kTail ? 4 : 6;
  constexpr int kRowSums = kTail ? 1 : 2;  // registers of sums a row of tiles
  const int64_t a_bytes = 2 * of.lda;
  const int64_t b_bytes = 4 * of.ldb;
  const int64_t c_bytes = 4 * of.ldc;
  const bf16* a = of.a;
  const bf16* b = of.b + 2 * column;
  float* c = of.c + column;
  Zero<0>();
  if constexpr (kRight == 2) Zero<1>();
  if constexpr (kLeft == 2) {
    Zero<kRowSums>();
    if constexpr (kRight == 2) Zero<3>();
  }
  for (int i = 0; i + kDepth <= of.k; i += kDepth) {
    Load<kA>(a, a_bytes);
    Load<kB>(b, b_bytes);
    MultiplyAdd<0, kA, kB>();
    if constexpr (kRight == 2) {
      Load<kB + 1>(b + 2 * kColumns, b_bytes);
      MultiplyAdd<1, kA, kB + 1>();
    }
    if constexpr (kLeft == 2) {
      Load<kA + 1>(a + kRows * of.lda, a_bytes);
      MultiplyAdd<kRowSums, kA + 1, kB>();
      if constexpr (kRight == 2) MultiplyAdd<3, kA + 1, kB + 1>();
    }
    a += kDepth;
    b += kDepth * of.ldb;
    between();
  }
  if constexpr (kTail) {
    Load<5>(a, a_bytes);
    Load<7>(b, b_bytes);
    MultiplyAdd<0, 5, 7>();
    if constexpr (kLeft == 2) {
      Load<6>(a + kRows * of.lda, a_bytes);
      MultiplyAdd<1, 6, 7>();
    }
    between();
  }
  Store<0>(c, c_bytes);
  if constexpr (kRight == 2) Store<1>(c + kColumns, c_bytes);
  if constexpr (kLeft == 2) {
    Store<kRowSums>(c + kRows * of.ldc, c_bytes);
    if constexpr (kRight == 2) Store<3>(c + kRows * of.ldc + kColumns, c_bytes);
  }
}

// Up to kBlockRows rows, and columns rounded up to whole tiles, with the shapes of `rows` and the
// depth.
template <class Between>
[[gnu::always_inline]] inline void MultiplyBlock(const Factors& of, int rows, int columns,
                                                 const Between& between) {
  const auto multiply = [&]<int kLeft, bool kTail>() __attribute__((always_inline)) {
    int column = 0;
    if constexpr (!kTail) {
      for (; column + kColumns < columns; column += 2 * kColumns) {
        MultiplyTiles<kLeft, 2, false>(of, column, between);
      }
    }
    for (; column < columns; column += kColumns) {
      MultiplyTiles<kLeft, 1, kTail>(of, column, between);
    }
  };
  const bool tail = of.k % kDepth != 0;
  if (rows > kRows) {
    tail ? multiply.template operator()<2, true>() : multiply.template operator()<2, false>();
  } else {
    tail ? multiply.template operator()<1, true>() : multiply.template operator()<1, false>();
  }
}

// Calls visit(row, count) for blocks of up to kBlockRows rows, in order, with the shapes of each.
template <class Visit>
[[gnu::always_inline]] inline void ForEachBlock(int rows, int k, const Visit& visit) {
  const auto blocks = [&](int begin, int end, int count) __attribute__((always_inline)) {
    if (begin == end) return;
    const Shapes shapes(count, k);
    for (int row = begin; row < end; row += kBlockRows) visit(row, count);
  };
  AfterStores();
  const int whole = rows - rows % kBlockRows;
  blocks(0, whole, kBlockRows);
  blocks(whole, rows, rows - whole);
}

}  // namespace ringwise::amx
