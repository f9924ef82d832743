#pragma once

#include <cstdint>

#include "kernels/lines_ahead.h"
#include "ringwise/dtype.h"

// What attention does to one tile of scores, on one thread. Tiles are transposed: rows are keys,
// columns are queries, at most kPanel of them. Running maxima and sums are then vectors over
// queries, and probabilities are written in the order in which the next product reads them.
//
// Legend
//   panel    up to kPanel = 64 columns; buffers are kPanel wide whatever the number of columns,
//            and columns up to the next multiple of kLanes may be read and overwritten
//   Operand  float or bf16: the type of the factors of products; sums are f32
//   packed   the right factor of a product, rows k, columns n, `ld` columns apart: float [k][ld];
//            bf16 [k / 2][ld][2], rows in pairs, an odd last row paired with zeros
namespace ringwise {

inline constexpr int kPanel = 64;
inline constexpr int kLanes = 16;

// Rows of a right factor come in groups of this many.
template <class Operand>
inline constexpr int kRowGroup = 1;
template <>
inline constexpr int kRowGroup<bf16> = 2;

// Rows `ld` apart are a packed right factor as they are.
template <class Operand>
inline constexpr bool kRowsArePacked = kRowGroup<Operand> == 1;

// The ld of packed panels. Without AVX-512 a register tile reads a quarter of a panel's row, and
// rows 256 bytes apart would all have it in the same quarter of the nearest cache, which holds 128
// such rows where it has 32 KiB. Pairs of bf16 are multiplied with AVX-512 only.
template <class Operand>
inline constexpr int kPackedStride = kRowsArePacked<Operand> ? kPanel + kLanes : kPanel;

// Where element (k, n) of a packed right factor lies.
template <class Operand>
int64_t PackedIndex(int64_t k, int64_t n, int64_t ld) {
  constexpr int64_t kGroup = kRowGroup<Operand>;
  return k / kGroup * kGroup * ld + n * kGroup + k % kGroup;
}

// A tile of scores as the first product leaves it. Bit c of a row's word stands for column c.
struct ScoreTile {
  const float* scores = nullptr;  // [rows][kPanel]
  int rows = 0;
  int columns = 0;
  float scale = 0;                    // of scores; logarithms are to base 2
  const uint64_t* visible = nullptr;  // of each row; null: every column
  const uint64_t* kept = nullptr;     // of each row, by dropout; null: every column
};

// What else the gradients of a tile's scores depend on and give.
struct ScoreGradientTerms {
  float dropout_factor = 1;       // of the dp of pairs that are kept
  const float* slopes = nullptr;  // [rows][kPanel] d score / d (scale product); null: 1
  float* unsloped = nullptr;  // [rows][kPanel] out: ds before `slopes`, f32; null: not asked for
};

// The factors of a product for a whole panel: left [rows of the tile][k] in rows `stride` apart,
// right [k][kPanel] packed with ld kPackedStride.
template <class Operand>
struct PanelFactors {
  const Operand* left = nullptr;
  int64_t stride = 0;
  const Operand* right = nullptr;
  int k = 0;  // a multiple of kRowGroup
};

template <class Operand>
struct TileKernels {
  // c[m, n] (= or +=) a[m, k] b[k, n]: a in rows `lda` apart, b packed, c in rows `ldc` apart.
  // k is a multiple of kRowGroup; n is at most kPanel. The sum over k is made first, then added.
  void (*product)(const Operand* a, int64_t lda, const Operand* b, int64_t ldb, int m, int n, int k,
                  float* c, int64_t ldc, bool accumulate);
  // `product` is fastest where k is a multiple of this: filling it up with zeros pays.
  int product_depth;

  // maxima[column] = largest visible scale * score, -inf without any.
  void (*score_maxima)(const ScoreTile& tile, float* maxima);

  // t = scale * score - reference[column]; p = 2^t where visible, else 0, packed with ld
  // kPackedStride.
  // sums[column] = sum of p before rounding, weights[column] = sum of p as rounded to Operand.
  // What is packed is 0 too where p is not kept; sums and weights count all p.
  // excess[column] = largest visible t, -inf without any.
  // Returns the largest excess. NaN scores give NaN p and sums, and do not count for the excess.
  float (*softmax)(const ScoreTile& tile, const float* reference, Operand* p, float* sums,
                   float* weights, float* excess);

  // Product and softmax at once, for panels of more than kPanel - kLanes columns: the scores
  // keys [tile.rows, k] query [k, kPanel] go from registers to probabilities, and tile.scores is
  // not used. Keys in rows `stride` apart, query packed with ld kPackedStride. There is no excess:
  // large sums tell of it, infinite or NaN ones too.
  void (*product_softmax)(const Operand* keys, int64_t stride, const Operand* query, int k,
                          const ScoreTile& tile, const float* reference, Operand* p, float* sums,
                          float* weights, LinesAhead& ahead);

  // p = 2^(scale * score - logsumexp[column]) where visible, else 0
  // ds = p (dp' - delta[column]) slopes, with dp' = dropout_factor * dp where kept, else 0
  // What is stored of p is 0 where it is not kept. dp [rows][kPanel]. p, ds: rows `ld` apart;
  // packed_ds: ds once more, packed with ld kPackedStride; not written where kRowsArePacked.
  void (*softmax_gradient)(const ScoreTile& tile, const ScoreGradientTerms& terms, const float* dp,
                           const float* logsumexp, const float* delta, Operand* p, Operand* ds,
                           int64_t ld, Operand* packed_ds);

  // Both products and softmax_gradient at once, for whole panels without dropout or other terms:
  // scores and dp go from registers to p and ds. tile.scores is not used and tile.columns is above
  // kPanel - kLanes. `powers` [rows][kPanel] is scratch. Calls
  // ahead.Fetch() after every few rows of either product.
  void (*product_softmax_gradient)(const PanelFactors<Operand>& scores,
                                   const PanelFactors<Operand>& dp, const ScoreTile& tile,
                                   const float* logsumexp, const float* delta, float* powers,
                                   Operand* p, Operand* ds, int64_t ld, Operand* packed_ds,
                                   LinesAhead& ahead);

  // matrix[row][column] *= factors[column] of rows [0, rows), kPanel wide.
  void (*scale_columns)(const float* factors, int rows, float* matrix);

  // Packs the transpose of `rows` <= kPanel rows of `length` elements: [length][kPackedStride],
  // columns from `rows` to kPanel zero.
  void (*pack_transposed)(const Operand* source, int64_t stride, int rows, int length,
                          Operand* packed);
  // Packs rows as they are, in panels of kPanel columns, each [rows rounded up to
  // kRowGroup][kPackedStride] and `panel_stride` elements from the last; columns past `length`
  // zero.
  void (*pack_rows)(const Operand* source, int64_t stride, int rows, int length,
                    int64_t panel_stride, Operand* packed);
};

// The kernels of this machine's instruction set. For bf16 null where the CPU has no bf16 products:
// then operands are floats.
const TileKernels<float>& FloatTileKernels();
const TileKernels<bf16>* NativeBf16TileKernels();

// What NativeBf16TileKernels chooses among, the fastest first; null where the CPU lacks them.
const TileKernels<bf16>* AmxTileKernels();      // matrix tiles
const TileKernels<bf16>* DotBf16TileKernels();  // AVX-512 BF16

}  // namespace ringwise
