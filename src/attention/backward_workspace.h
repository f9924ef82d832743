#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"
#include "kernels/arena.h"
#include "kernels/tile_kernels.h"

namespace ringwise {

inline constexpr int kBackwardPanels = 2;
inline constexpr int64_t kBackwardQueryBlock = kBackwardPanels * kPanel;
// Elements from one row of P or dS to the next. Where dS is a packed factor as it is, not a power
// of two, for the reason of kPackedStride.
template <class Operand>
inline constexpr int64_t kScoreStride =
    kRowsArePacked<Operand> ? kBackwardQueryBlock + kLanes : kBackwardQueryBlock;
// Key rows whose scores are made at once. Each product of a step brings its right factor to the
// nearest cache anew: many rows pay for that, and still leave P and dS near.
inline constexpr int kBackwardStep = 96;

// Keys of a tile, a few steps. Whatever is loaded, packed and added to dq for a query block is so
// once a tile, so tiles are large: their operands and gradients take one and a half of the second
// cache, because a query block reads them in order, and they come from the third in time. Less
// where the team would not find a few tiles a thread, if there are as many keys as queries.
int64_t BackwardTileRows(const AttentionShape& shape, int64_t q_len, int threads);

inline int64_t Panels(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// Rows of queries or output gradients of one head, in all the forms that products take.
template <class Operand>
struct QueryOperands {
  static constexpr int64_t kPanelRows = kBackwardQueryBlock * kPackedStride<Operand>;

  Operand* transposed[kBackwardPanels] = {};  // packed [depth][kPackedStride]
  Operand* rows = nullptr;  // packed [kBackwardQueryBlock][kPackedStride], a panel of length each
  int length = 0;           // head_dim or value_dim
  int depth = 0;            // as products take it

  void Lay(int64_t dim, Arena& arena) {
    length = static_cast<int>(dim);
    depth = static_cast<int>(RoundUp(dim, kRowGroup<Operand>));
    for (Operand*& panel : transposed) panel = arena.Take<Operand>(depth * kPackedStride<Operand>);
    rows = arena.Take<Operand>(Panels(dim) * kPanelRows);
  }
  float At(int64_t query, int64_t i) const {
    return static_cast<float>(
        rows[i / kPanel * kPanelRows +
             PackedIndex<Operand>(query, i % kPanel, kPackedStride<Operand>)]);
  }
};

// The gradient of a tile's keys or values while it is summed up.
struct RowGradient {
  float* data = nullptr;  // [tile rows][stride]
  int64_t stride = 0;

  void Lay(int64_t tile_rows, int64_t dim, Arena& arena) {
    stride = RoundUp(dim, kLanes);
    data = arena.Take<float>(tile_rows * stride);
  }
};

// The memory of one thread's walk over a key tile.
template <class Storage, class Operand>
struct BackwardWorkspace {
  Operand* keys = nullptr;             // [tile rows][head_dim as products take it]
  Operand* values = nullptr;           // [tile rows][value_dim likewise]
  Operand* keys_transposed = nullptr;  // [head_dim][tile rows]
  RowGradient dk, dv;
  QueryOperands<Operand> query;
  QueryOperands<Operand> d_output;
  float* scores = nullptr;  // [kBackwardStep][kPanel]
  float* dp = nullptr;      // [kBackwardStep][kPanel]
  Operand* p = nullptr;     // [kBackwardStep][kScoreStride]
  // [kScoreStride] a row: of a step's rows, or of all of the tile where kRowsArePacked
  Operand* ds = nullptr;
  Operand* packed_ds[kBackwardPanels] = {};  // packed [tile rows][kPackedStride] where not
  float* logsumexp = nullptr;                // [kBackwardQueryBlock], base 2
  float* delta = nullptr;                    // [kBackwardQueryBlock]
  uint64_t* visible[kBackwardPanels] = {};   // [tile rows]
  // Of the key rows of a step, for options that need them:
  float* slopes = nullptr;          // [kBackwardStep][kPanel]
  float* unsloped = nullptr;        // [kBackwardStep][kPanel], and what is added to scores before
  uint64_t* shown = nullptr;        // visible and not hidden by the bias
  uint64_t* kept = nullptr;         // by dropout
  Operand* wide_queries = nullptr;  // [kBackwardQueryBlock][..]; only if Storage widens

  // dS of the rows of a step that begins at this row of the tile.
  Operand* StepDs(int begin) const {
    return kRowsArePacked<Operand> ? ds + begin * kScoreStride<Operand> : ds;
  }
  // dS of a panel as the right factor of dQ, from this row of the tile on, and its ld.
  Rows<const Operand> PackedDs(int panel, int begin) const {
    if constexpr (kRowsArePacked<Operand>) {
      return {StepDs(begin) + panel * kPanel, kScoreStride<Operand>};
    } else {
      return {packed_ds[panel] + begin * kPackedStride<Operand>, kPackedStride<Operand>};
    }
  }

  static BackwardWorkspace Lay(const AttentionShape& shape, int64_t tile_rows, Arena& arena) {
    BackwardWorkspace work;
    work.keys = arena.Take<Operand>(tile_rows * RoundUp(shape.head_dim, kRowGroup<Operand>));
    work.values = arena.Take<Operand>(tile_rows * RoundUp(shape.value_dim, kRowGroup<Operand>));
    work.keys_transposed = arena.Take<Operand>(shape.head_dim * tile_rows);
    work.dk.Lay(tile_rows, shape.head_dim, arena);
    work.dv.Lay(tile_rows, shape.value_dim, arena);
    work.query.Lay(shape.head_dim, arena);
    work.d_output.Lay(shape.value_dim, arena);
    work.scores = arena.Take<float>(kBackwardStep * kPanel);
    work.dp = arena.Take<float>(kBackwardStep * kPanel);
    work.p = arena.Take<Operand>(kBackwardStep * kScoreStride<Operand>);
    if constexpr (kRowsArePacked<Operand>) {
      work.ds = arena.Take<Operand>(tile_rows * kScoreStride<Operand>);
    } else {
      work.ds = arena.Take<Operand>(kBackwardStep * kScoreStride<Operand>);
      for (Operand*& panel : work.packed_ds) {
        panel =
            arena.Take<Operand>(RoundUp(tile_rows, kRowGroup<Operand>) * kPackedStride<Operand>);
      }
    }
    work.logsumexp = arena.Take<float>(kBackwardQueryBlock);
    work.delta = arena.Take<float>(kBackwardQueryBlock);
    for (uint64_t*& bits : work.visible) bits = arena.Take<uint64_t>(tile_rows);
    work.slopes = arena.Take<float>(kBackwardStep * kPanel);
    work.unsloped = arena.Take<float>(kBackwardStep * kPanel);
    work.shown = arena.Take<uint64_t>(kBackwardStep);
    work.kept = arena.Take<uint64_t>(kBackwardStep);
    if constexpr (kWidens<Storage, Operand>) {
      work.wide_queries =
          arena.Take<Operand>(kBackwardQueryBlock * std::max(shape.head_dim, shape.value_dim));
    }
    return work;
  }
};

}  // namespace ringwise
