#pragma once

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>
#include <vector>

#include "attention/backward_block.h"
#include "attention/query_gradient.h"
#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

namespace ringwise {

inline constexpr int kBackwardPanels = 2;
inline constexpr int64_t kBackwardQueryBlock = kBackwardPanels * kPanel;

// What every walk of one shard's backward shares.
struct BackwardProblem {
  AttentionShape shape;
  Mask mask;
  double scale = 0;
  float scale_base2 = 0;
  ConstTensorView query;
  ConstTensorView output_gradient;
  int64_t q_len = 0;
  std::vector<RowBlock> query_blocks;  // of at most kBackwardQueryBlock
  const float* logsumexp = nullptr;    // [batch, heads, q_len], base 2; rows seeing nothing: +inf
  const float* delta = nullptr;        // [batch, heads, q_len]: rowsum(dO * O)
};

// Backward of one key tile of one kv_head, on one thread. It goes over the visible query blocks of
// all heads that share the kv_head, with dk and dv in a workspace:
//
//   S^T[keys, queries]  = K Q^T           P^T  = 2^(scale S^T - logsumexp)
//   dP^T[keys, queries] = V dO^T          dS^T = P^T (dP^T - delta)
//   dV[keys, head_dim]  += P^T dO         dK[keys, head_dim] += dS^T Q
//   dQ^T[head_dim, queries] += K^T dS^T
//
// The scale of dK and dQ is applied once, when they leave.
template <class Storage, class Operand>
class BackwardWalk {
 public:
  // Keys of a tile: as many as leave its operands and gradients in the second cache.
  static int64_t TileRows(int64_t head_dim) { return head_dim <= 64 ? 384 : 192; }

  BackwardWalk(const BackwardProblem& problem, const TileKernels<Operand>& kernels,
               std::byte* workspace)
      : problem_(problem),
        kernels_(kernels),
        head_dim_(static_cast<int>(problem.shape.head_dim)),
        depth_(Depth(problem.shape.head_dim)),
        padded_head_dim_(RoundUp(problem.shape.head_dim, kLanes)) {
    Arena arena(workspace);
    work_ = Lay(problem.shape.head_dim, arena);
  }

  static size_t WorkspaceBytes(int64_t head_dim) {
    Arena counter;
    Lay(head_dim, counter);
    return counter.used();
  }

  // gradient += dk, dv of `tile` of head group batch * kv_heads + kv_head; `copy` of dq += its
  // part.
  void Attend(const BackwardBlock<const Storage>& block, const GradientBlock<float>& gradient,
              const RowBlock& tile, int64_t group, QueryGradient& dq, int copy,
              ProgressCounter& progress) const {
    const int64_t batch = group / problem_.shape.kv_heads;
    const int64_t kv_head = group % problem_.shape.kv_heads;
    const int64_t heads = problem_.shape.heads / problem_.shape.kv_heads;
    bool started = false;
    Rows<const Operand> keys;
    Rows<const Operand> values;
    for (int64_t head = kv_head * heads; head < (kv_head + 1) * heads; ++head) {
      const MaskPlane plane{problem_.mask, batch, head};
      for (const RowBlock& queries : problem_.query_blocks) {
        if (Classify(plane, queries.positions, tile.positions) == TileKind::kEmpty) continue;
        if (!started) {
          started = true;
          keys = AsOperand(block.Keys(batch, kv_head, tile.begin), tile.count(), head_dim_,
                           work_.wide_keys);
          values = AsOperand(block.Values(batch, kv_head, tile.begin), tile.count(), head_dim_,
                             work_.wide_values);
          StartTile(keys, tile);
        }
        LoadQueries(batch, head, queries);
        AttendTile(plane, keys, values, tile, queries, batch * problem_.shape.heads + head, dq,
                   copy);
        progress.Worked(5 * tile.count() * queries.count() * head_dim_);
      }
    }
    if (!started) return;
    for (int64_t row = 0; row < tile.count(); ++row) {
      float* dk = gradient.Keys(batch, kv_head, tile.begin + row);
      float* dv = gradient.Values(batch, kv_head, tile.begin + row);
      const auto scale = static_cast<float>(problem_.scale);
      for (int64_t i = 0; i < head_dim_; ++i) {
        dk[i] += scale * work_.dk[row * padded_head_dim_ + i];
        dv[i] += work_.dv[row * padded_head_dim_ + i];
      }
    }
  }

 private:
  static constexpr int kStepRows = 48;  // scores made at once: they stay in the nearest cache

  // Query rows of one head in all the forms that products take.
  struct QueryOperands {
    Operand* transposed[kBackwardPanels] = {};  // packed [depth][kPanel]
    Operand* rows = nullptr;  // packed [kBackwardQueryBlock][kPanel], a panel of head_dim each
  };

  struct Workspace {
    Operand* keys_transposed = nullptr;  // [head_dim][tile rows]
    float* dk = nullptr;                 // [tile rows][padded head_dim]
    float* dv = nullptr;
    QueryOperands query;
    QueryOperands d_output;
    float* scores = nullptr;       // [kStepRows][kPanel]
    float* dp = nullptr;           // [kStepRows][kPanel]
    Operand* p = nullptr;          // [kStepRows][kBackwardQueryBlock]
    Operand* ds = nullptr;         // [tile rows][kBackwardQueryBlock]
    Operand* packed_ds = nullptr;  // packed [tile rows][kBackwardQueryBlock]; float: `ds` itself
    float* logsumexp = nullptr;    // [kBackwardQueryBlock], base 2
    float* delta = nullptr;        // [kBackwardQueryBlock]
    uint64_t* visible[kBackwardPanels] = {};  // [tile rows]
    Operand* wide_queries = nullptr;  // [kBackwardQueryBlock][head_dim], only if Storage widens
    Operand* wide_keys = nullptr;     // [tile rows][head_dim]
    Operand* wide_values = nullptr;
  };

  // What one panel of queries sees of a key tile.
  struct PanelView {
    RowBlock queries;
    VisibleRows rows;                   // none: begin == end
    const uint64_t* visible = nullptr;  // a bit a column; null: all
  };

  // head_dim as products take it.
  static int Depth(int64_t head_dim) {
    return static_cast<int>(RoundUp(head_dim, kRowGroup<Operand>));
  }
  static int64_t HeadDimPanels(int64_t head_dim) { return (head_dim + kPanel - 1) / kPanel; }

  static Workspace Lay(int64_t head_dim, Arena& arena) {
    const int64_t tile_rows = TileRows(head_dim);
    Workspace work;
    work.keys_transposed = arena.Take<Operand>(head_dim * tile_rows);
    work.dk = arena.Take<float>(tile_rows * RoundUp(head_dim, kLanes));
    work.dv = arena.Take<float>(tile_rows * RoundUp(head_dim, kLanes));
    for (QueryOperands* operands : {&work.query, &work.d_output}) {
      for (Operand*& panel : operands->transposed)
        panel = arena.Take<Operand>(Depth(head_dim) * kPanel);
      operands->rows = arena.Take<Operand>(HeadDimPanels(head_dim) * kBackwardQueryBlock * kPanel);
    }
    work.scores = arena.Take<float>(kStepRows * kPanel);
    work.dp = arena.Take<float>(kStepRows * kPanel);
    work.p = arena.Take<Operand>(kStepRows * kBackwardQueryBlock);
    work.ds = arena.Take<Operand>(tile_rows * kBackwardQueryBlock);
    work.packed_ds = work.ds;
    if constexpr (std::is_same_v<Operand, bf16>) {
      work.packed_ds = arena.Take<Operand>(tile_rows * kBackwardQueryBlock);
    }
    work.logsumexp = arena.Take<float>(kBackwardQueryBlock);
    work.delta = arena.Take<float>(kBackwardQueryBlock);
    for (uint64_t*& bits : work.visible) bits = arena.Take<uint64_t>(tile_rows);
    if constexpr (kWidens<Storage, Operand>) {
      work.wide_queries = arena.Take<Operand>(kBackwardQueryBlock * head_dim);
      work.wide_keys = arena.Take<Operand>(tile_rows * head_dim);
      work.wide_values = arena.Take<Operand>(tile_rows * head_dim);
    }
    return work;
  }

  void StartTile(Rows<const Operand> keys, const RowBlock& tile) const {
    const int64_t stride = TileRows(head_dim_);
    Transpose(keys.data, keys.stride, tile.count(), head_dim_, work_.keys_transposed, stride);
    if (tile.count() % kRowGroup<Operand> != 0) {
      for (int64_t i = 0; i < head_dim_; ++i) {
        work_.keys_transposed[i * stride + tile.count()] = Operand{};
      }
    }
    std::fill_n(work_.dk, tile.count() * padded_head_dim_, 0.0f);
    std::fill_n(work_.dv, tile.count() * padded_head_dim_, 0.0f);
  }

  void LoadQueries(int64_t batch, int64_t head, const RowBlock& queries) const {
    const auto count = static_cast<int>(queries.count());
    const auto load = [&](const ConstTensorView& view, const QueryOperands& to) {
      const Rows<const Operand> rows =
          AsOperand(HeadRows<const Storage>(view, batch, queries.begin, head), count, head_dim_,
                    work_.wide_queries);
      for (int p = 0; p * kPanel < count; ++p) {
        kernels_.pack_transposed(rows.data + p * kPanel * rows.stride, rows.stride,
                                 std::min(kPanel, count - p * kPanel), head_dim_, to.transposed[p]);
      }
      kernels_.pack_rows(rows.data, rows.stride, count, head_dim_, kBackwardQueryBlock * kPanel,
                         to.rows);
    };
    load(problem_.query, work_.query);
    load(problem_.output_gradient, work_.d_output);
    const int64_t statistic =
        (batch * problem_.shape.heads + head) * problem_.q_len + queries.begin;
    std::copy_n(problem_.logsumexp + statistic, count, work_.logsumexp);
    std::copy_n(problem_.delta + statistic, count, work_.delta);
    std::fill(work_.logsumexp + count, work_.logsumexp + kBackwardQueryBlock,
              std::numeric_limits<float>::infinity());
    std::fill(work_.delta + count, work_.delta + kBackwardQueryBlock, 0.0f);
  }

  PanelView See(const MaskPlane& plane, const RowBlock& queries, int panel,
                const RowBlock& tile) const {
    PanelView view;
    view.queries = Part(queries, panel * kPanel, kPanel);
    switch (Classify(plane, view.queries.positions, tile.positions)) {
      case TileKind::kEmpty:
        break;
      case TileKind::kFull:
        view.rows = {0, static_cast<int>(tile.count())};
        break;
      case TileKind::kPartial:
        view.rows =
            FindVisible(plane, view.queries.positions, tile.positions, work_.visible[panel]);
        view.rows.begin -= view.rows.begin % kRowGroup<Operand>;
        view.visible = work_.visible[panel];
        break;
    }
    return view;
  }

  void AttendTile(const MaskPlane& plane, Rows<const Operand> keys, Rows<const Operand> values,
                  const RowBlock& tile, const RowBlock& queries, int64_t batch_head,
                  QueryGradient& dq, int copy) const {
    PanelView panels[kBackwardPanels];
    const auto panel_count = static_cast<int>((queries.count() + kPanel - 1) / kPanel);
    for (int p = 0; p < panel_count; ++p) panels[p] = See(plane, queries, p, tile);
    if (!FiniteWhereHidden(keys, panels, tile, queries)) {
      for (int p = 0; p < panel_count; ++p) {
        AttendPairs(keys, values, panels[p], p, tile,
                    dq.At(copy, batch_head, panels[p].queries.begin));
      }
      return;
    }
    for (int row = 0; row < tile.count(); row += kStepRows) {
      const int end = std::min<int>(row + kStepRows, static_cast<int>(tile.count()));
      int first = kBackwardPanels;  // panels that see some of these rows
      int last = 0;
      for (int p = 0; p < panel_count; ++p) {
        if (panels[p].rows.begin >= end || panels[p].rows.end <= row) continue;
        first = std::min(first, p);
        last = p + 1;
      }
      if (first >= last) continue;
      for (int p = first; p < last; ++p) {
        MakeScoreGradients(keys, values, panels[p], p, {row, end});
      }
      const auto queries_end =
          static_cast<int>(std::min<int64_t>(queries.count(), int64_t{last} * kPanel));
      AddKeyGradients(row, end, first * kPanel, queries_end);
    }
    const int64_t stride = TileRows(head_dim_);
    for (int p = 0; p < panel_count; ++p) {
      const VisibleRows rows = panels[p].rows;
      if (rows.begin >= rows.end) continue;
      const QueryGradient::Panel sum = dq.At(copy, batch_head, panels[p].queries.begin);
      kernels_.product(
          work_.keys_transposed + rows.begin, stride,
          work_.packed_ds + rows.begin * kBackwardQueryBlock + p * kPanel * kRowGroup<Operand>,
          kBackwardQueryBlock, head_dim_, static_cast<int>(panels[p].queries.count()),
          static_cast<int>(RoundUp(rows.end - rows.begin, kRowGroup<Operand>)), sum.data,
          sum.stride, true);
    }
  }

  // Whether every panel that is not wholly visible has finite factors: see AllFinite.
  bool FiniteWhereHidden(Rows<const Operand> keys, const PanelView* panels, const RowBlock& tile,
                         const RowBlock& queries) const {
    if (std::none_of(panels, panels + kBackwardPanels,
                     [](const PanelView& view) { return view.visible != nullptr; })) {
      return true;
    }
    for (const Operand* rows : {work_.query.rows, work_.d_output.rows}) {
      const int64_t group = kRowGroup<Operand>;
      const Rows<const Operand> packed{rows, kBackwardQueryBlock * kPanel};
      const int64_t length = RoundUp(queries.count(), group) * kPanel;
      if (!AllFinite(packed, HeadDimPanels(head_dim_), length)) return false;
    }
    return AllFinite(keys, tile.count(), head_dim_);
  }

  // One panel against the tile, all products over visible pairs alone.
  void AttendPairs(Rows<const Operand> keys, Rows<const Operand> values, const PanelView& panel,
                   int p, const RowBlock& tile, QueryGradient::Panel dq) const {
    const auto tile_end = static_cast<int>(tile.count());
    const auto packed = [&](const QueryOperands& operands, int64_t query, int64_t i) {
      return static_cast<float>(operands.rows[i / kPanel * kBackwardQueryBlock * kPanel +
                                              PackedIndex<Operand>(query, i % kPanel, kPanel)]);
    };
    for (int step = 0; step < tile_end; step += kStepRows) {
      const int end = std::min(step + kStepRows, tile_end);
      MakeScoreGradients(keys, values, panel, p, {step, end});
      for (int row = std::max(step, panel.rows.begin); row < std::min(end, panel.rows.end); ++row) {
        const auto columns = static_cast<int>(panel.queries.count());
        uint64_t left = ~uint64_t{0} >> (kPanel - columns);
        if (panel.visible != nullptr) left &= panel.visible[row];
        for (; left != 0; left &= left - 1) {
          const int column = std::countr_zero(left);
          const int64_t query = p * kPanel + column;
          const auto power =
              static_cast<float>(work_.p[(row - step) * kBackwardQueryBlock + query]);
          const auto gradient = static_cast<float>(work_.ds[row * kBackwardQueryBlock + query]);
          for (int64_t i = 0; i < head_dim_; ++i) {
            work_.dv[row * padded_head_dim_ + i] += power * packed(work_.d_output, query, i);
            work_.dk[row * padded_head_dim_ + i] += gradient * packed(work_.query, query, i);
            dq.data[i * dq.stride + column] +=
                gradient * static_cast<float>(keys.data[row * keys.stride + i]);
          }
        }
      }
    }
  }

  // P and dS of the key rows [step.begin, step.end) of one panel, zero in rows that it does not
  // see.
  void MakeScoreGradients(Rows<const Operand> keys, Rows<const Operand> values,
                          const PanelView& panel, int p, VisibleRows step) const {
    const int begin = std::max(step.begin, panel.rows.begin);
    const int end = std::max(begin, std::min(step.end, panel.rows.end));
    Operand* p_step = work_.p + p * kPanel;
    Operand* ds_tile = work_.ds + p * kPanel;
    for (int row = step.begin; row < step.end; ++row) {
      if (row >= begin && row < end) continue;
      std::fill_n(p_step + (row - step.begin) * kBackwardQueryBlock, kPanel, Operand{});
      std::fill_n(ds_tile + row * kBackwardQueryBlock, kPanel, Operand{});
    }
    if (begin == end) return;
    const ScoreTile scores{.scores = work_.scores,
                           .rows = end - begin,
                           .columns = static_cast<int>(panel.queries.count()),
                           .scale = problem_.scale_base2,
                           .visible = panel.visible == nullptr ? nullptr : panel.visible + begin};
    kernels_.product(keys.data + begin * keys.stride, keys.stride, work_.query.transposed[p],
                     kPanel, scores.rows, scores.columns, depth_, work_.scores, kPanel, false);
    kernels_.product(values.data + begin * values.stride, values.stride,
                     work_.d_output.transposed[p], kPanel, scores.rows, scores.columns, depth_,
                     work_.dp, kPanel, false);
    kernels_.softmax_gradient(
        scores, {}, work_.dp, work_.logsumexp + p * kPanel, work_.delta + p * kPanel,
        p_step + (begin - step.begin) * kBackwardQueryBlock, ds_tile + begin * kBackwardQueryBlock,
        work_.packed_ds + begin * kBackwardQueryBlock + p * kPanel * kRowGroup<Operand>,
        kBackwardQueryBlock);
  }

  // dV += P^T dO and dK += dS^T Q for key rows [begin, end) and queries [first, last) of the block.
  void AddKeyGradients(int begin, int end, int first, int last) const {
    const auto depth = static_cast<int>(RoundUp(last - first, kRowGroup<Operand>));
    for (int64_t panel = 0; panel < HeadDimPanels(head_dim_); ++panel) {
      const int64_t column = panel * kPanel;
      const auto columns = static_cast<int>(std::min<int64_t>(kPanel, head_dim_ - column));
      const int64_t right = (panel * kBackwardQueryBlock + first) * kPanel;
      kernels_.product(work_.p + first, kBackwardQueryBlock, work_.d_output.rows + right, kPanel,
                       end - begin, columns, depth, work_.dv + begin * padded_head_dim_ + column,
                       padded_head_dim_, true);
      kernels_.product(work_.ds + begin * kBackwardQueryBlock + first, kBackwardQueryBlock,
                       work_.query.rows + right, kPanel, end - begin, columns, depth,
                       work_.dk + begin * padded_head_dim_ + column, padded_head_dim_, true);
    }
  }

  const BackwardProblem& problem_;
  const TileKernels<Operand>& kernels_;
  const int head_dim_;
  const int depth_;
  const int64_t padded_head_dim_;
  Workspace work_;
};

}  // namespace ringwise
