#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/forward_block.h"
#include "attention/partial_attention.h"
#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

namespace ringwise {

inline constexpr int64_t kForwardQueryBlock = 2 * kPanel;

// What every walk of one shard's forward shares.
struct ForwardProblem {
  AttentionShape shape;
  Mask mask;
  float scale_base2 = 0;
  ConstTensorView query;
};

// Forward of one query block against one key/value block, on one thread. It goes over the visible
// key tiles with the output transposed in a workspace:
//
//   S^T[keys, 64]       = K Q^T
//   P^T[keys, 64]       = 2^(scale S^T - row_max)        row_max, row_sum: vectors over queries
//   O^T[head_dim, 64]  += V^T P^T
//
// row_max is a reference rather than the maximum: it moves, and O^T is rescaled, only when a score
// exceeds it by more than kSlack, so that scores are normally looked at once.
template <class Storage, class Operand>
class ForwardWalk {
 public:
  ForwardWalk(const ForwardProblem& problem, const TileKernels<Operand>& kernels,
              std::byte* workspace)
      : problem_(problem),
        kernels_(kernels),
        head_dim_(static_cast<int>(problem.shape.head_dim)),
        depth_(Depth(problem.shape.head_dim)) {
    Arena arena(workspace);
    work_ = Lay(head_dim_, arena);
  }

  static size_t WorkspaceBytes(int64_t head_dim) {
    Arena counter;
    Lay(head_dim, counter);
    return counter.used();
  }

  // Attends `queries` (at most kForwardQueryBlock) of one head and merges the result into `state`.
  void Attend(const ForwardBlock<const Storage>& block, const std::vector<RowBlock>& key_tiles,
              int64_t batch, int64_t head, const RowBlock& queries, const PartialAttention& state,
              ProgressCounter& progress) {
    const MaskPlane plane{problem_.mask, batch, head};
    const int64_t kv_head = head * problem_.shape.kv_heads / problem_.shape.heads;
    const auto panels = static_cast<int>((queries.count() + kPanel - 1) / kPanel);
    for (int p = 0; p < panels; ++p) {
      Start(batch, head, Part(queries, p * kPanel, kPanel), work_.panels[p]);
    }
    for (const RowBlock& tile : key_tiles) {
      if (Classify(plane, queries.positions, tile.positions) == TileKind::kEmpty) continue;
      const auto count = static_cast<int>(tile.count());
      const Rows<const Operand> keys =
          AsOperand(block.Keys(batch, kv_head, tile.begin), count, head_dim_, work_.wide_keys);
      const Rows<const Operand> values =
          AsOperand(block.Values(batch, kv_head, tile.begin), head_dim_, count, work_.wide_values);
      for (int p = 0; p < panels; ++p) {
        AttendTile(plane, keys, values, tile, Part(queries, p * kPanel, kPanel), work_.panels[p]);
      }
      progress.Worked(2 * count * queries.count() * head_dim_);
    }
    for (int p = 0; p < panels; ++p) {
      Panel& panel = work_.panels[p];
      Transpose(panel.output, kPanel, head_dim_, panel.columns, work_.rows, head_dim_);
      Merge({work_.rows, panel.row_max, panel.row_sum, panel.columns, head_dim_, panel.row_weight},
            {state.output + p * kPanel * head_dim_, state.row_max + p * kPanel,
             state.row_sum + p * kPanel, panel.columns, head_dim_, state.row_weight + p * kPanel});
    }
  }

 private:
  static constexpr float kNothingSeen = -std::numeric_limits<float>::infinity();
  // Scores made at once: few enough to stay in the nearest cache.
  static constexpr int kStepRows = 48;
  // Probabilities up to 2^8 lose nothing: f32 has room for their sums and products.
  static constexpr float kSlack = 8.0f;

  struct Panel {
    Operand* query = nullptr;  // packed [depth][kPanel]
    float* output = nullptr;   // O^T [head_dim][kPanel]
    float row_max[kPanel];     // kNothingSeen: no key yet
    float row_sum[kPanel];
    float row_weight[kPanel];
    int columns = 0;
    bool unseen = false;  // some column has seen no key yet
  };

  struct Workspace {
    Panel panels[kForwardQueryBlock / kPanel];
    float* scores = nullptr;           // [kStepRows][kPanel]
    Operand* probabilities = nullptr;  // packed [kKeyChunk][kPanel]
    float* rows = nullptr;             // [kPanel][head_dim]: the output, transposed back
    uint64_t* visible = nullptr;       // [kKeyChunk], a bit a column
    // Only where Storage is widened:
    Operand* wide_queries = nullptr;  // [kPanel][head_dim]
    Operand* wide_keys = nullptr;     // [kKeyChunk][head_dim]
    Operand* wide_values = nullptr;   // [head_dim][kKeyChunk]
  };

  // head_dim as products take it.
  static int Depth(int64_t head_dim) {
    return static_cast<int>(RoundUp(head_dim, kRowGroup<Operand>));
  }

  static Workspace Lay(int64_t head_dim, Arena& arena) {
    Workspace work;
    for (Panel& panel : work.panels) {
      panel.query = arena.Take<Operand>(Depth(head_dim) * kPanel);
      panel.output = arena.Take<float>(head_dim * kPanel);
    }
    work.scores = arena.Take<float>(kStepRows * kPanel);
    work.probabilities = arena.Take<Operand>(kKeyChunk * kPanel);
    work.rows = arena.Take<float>(kPanel * head_dim);
    work.visible = arena.Take<uint64_t>(kKeyChunk);
    if constexpr (kWidens<Storage, Operand>) {
      work.wide_queries = arena.Take<Operand>(kPanel * head_dim);
      work.wide_keys = arena.Take<Operand>(kKeyChunk * head_dim);
      work.wide_values = arena.Take<Operand>(head_dim * kKeyChunk);
    }
    return work;
  }

  void Start(int64_t batch, int64_t head, const RowBlock& queries, Panel& panel) const {
    panel.columns = static_cast<int>(queries.count());
    const Rows<const Operand> rows =
        AsOperand(HeadRows<const Storage>(problem_.query, batch, queries.begin, head),
                  panel.columns, head_dim_, work_.wide_queries);
    kernels_.pack_transposed(rows.data, rows.stride, panel.columns, head_dim_, panel.query);
    std::fill_n(panel.output, head_dim_ * kPanel, 0.0f);
    std::fill_n(panel.row_sum, kPanel, 0.0f);
    std::fill_n(panel.row_weight, kPanel, 0.0f);
    std::fill_n(panel.row_max, kPanel, kNothingSeen);
    panel.unseen = true;
  }

  void AttendTile(const MaskPlane& plane, Rows<const Operand> keys, Rows<const Operand> values,
                  const RowBlock& tile, const RowBlock& queries, Panel& panel) const {
    const TileKind kind = Classify(plane, queries.positions, tile.positions);
    if (kind == TileKind::kEmpty) return;
    VisibleRows rows{0, static_cast<int>(tile.count())};
    const uint64_t* visible = nullptr;
    if (kind == TileKind::kPartial) {
      rows = FindVisible(plane, queries.positions, tile.positions, work_.visible);
      visible = work_.visible;
    }
    const bool careful = visible != nullptr && !AllFinite(values, head_dim_, tile.count());
    int pending = rows.begin;  // from this row on, probabilities are not yet in the output
    for (int row = rows.begin; row < rows.end; row += kStepRows) {
      const ScoreTile scores{.scores = work_.scores,
                             .rows = std::min(kStepRows, rows.end - row),
                             .columns = panel.columns,
                             .scale = problem_.scale_base2,
                             .visible = visible == nullptr ? nullptr : visible + row};
      kernels_.product(keys.data + row * keys.stride, keys.stride, panel.query, kPanel, scores.rows,
                       panel.columns, depth_, work_.scores, kPanel, false);
      if (panel.unseen) Discover(scores, panel);
      Operand* p = work_.probabilities + (row - rows.begin) * kPanel;
      float sums[kPanel];
      float weights[kPanel];
      float excess[kPanel];
      if (SoftmaxStep(scores, panel, p, sums, weights, excess) > kSlack) {
        AddValues(values, rows.begin, {pending, row}, careful, panel);
        pending = row;
        MoveReference(excess, panel);
        SoftmaxStep(scores, panel, p, sums, weights, excess);
      }
      for (int i = 0; i < panel.columns; ++i) {
        panel.row_sum[i] += sums[i];
        panel.row_weight[i] += weights[i];
      }
    }
    AddValues(values, rows.begin, {pending, rows.end}, careful, panel);
  }

  float SoftmaxStep(const ScoreTile& scores, const Panel& panel, Operand* p, float* sums,
                    float* weights, float* excess) const {
    float reference[kPanel];  // finite, so that hidden scores of unseen columns give no NaN
    for (int i = 0; i < kPanel; ++i) {
      reference[i] = panel.row_max[i] == kNothingSeen ? 0.0f : panel.row_max[i];
    }
    return kernels_.softmax(scores, reference, p, sums, weights, excess);
  }

  // Columns that see their first keys start from the largest score of these.
  void Discover(const ScoreTile& scores, Panel& panel) const {
    float maxima[kPanel];
    kernels_.score_maxima(scores, maxima);
    panel.unseen = false;
    for (int i = 0; i < panel.columns; ++i) {
      if (panel.row_max[i] == kNothingSeen) panel.row_max[i] = maxima[i];
      if (panel.row_max[i] == kNothingSeen) panel.unseen = true;
    }
  }

  void MoveReference(const float* excess, Panel& panel) const {
    float factors[kPanel];
    std::fill_n(factors, kPanel, 1.0f);
    for (int i = 0; i < panel.columns; ++i) {
      if (!(excess[i] > kSlack)) continue;
      const float moved = panel.row_max[i] + excess[i];
      factors[i] = std::exp2(panel.row_max[i] - moved);
      panel.row_max[i] = moved;
      panel.row_sum[i] *= factors[i];
      panel.row_weight[i] *= factors[i];
    }
    kernels_.scale_columns(factors, head_dim_, panel.output);
  }

  // O^T += V^T P^T over key rows [rows.begin, rows.end); probabilities start at row `first`.
  // `careful`: over visible pairs alone.
  void AddValues(Rows<const Operand> values, int first, VisibleRows rows, bool careful,
                 Panel& panel) const {
    if (rows.begin == rows.end) return;
    if (!careful) {
      // An odd last row has no partner: the column beside it may be a key that these queries do
      // not see, or lie past the block.
      const int paired = rows.end - (rows.end - rows.begin) % kRowGroup<Operand>;
      if (paired > rows.begin) {
        kernels_.product(values.data + rows.begin, values.stride,
                         work_.probabilities + (rows.begin - first) * kPanel, kPanel, head_dim_,
                         panel.columns, paired - rows.begin, panel.output, kPanel, true);
      }
      if (paired < rows.end) AddLastValue(values, first, paired, panel);
      return;
    }
    for (int row = rows.begin; row < rows.end; ++row) {
      for (uint64_t left = work_.visible[row]; left != 0; left &= left - 1) {
        const int column = std::countr_zero(left);
        const auto p = static_cast<float>(
            work_.probabilities[PackedIndex<Operand>(row - first, column, kPanel)]);
        for (int i = 0; i < head_dim_; ++i) {
          panel.output[i * kPanel + column] +=
              p * static_cast<float>(values.data[i * values.stride + row]);
        }
      }
    }
  }

  // O^T += V^T P^T of one key row.
  void AddLastValue(Rows<const Operand> values, int first, int row, Panel& panel) const {
    float p[kPanel];
    for (int column = 0; column < panel.columns; ++column) {
      p[column] = static_cast<float>(
          work_.probabilities[PackedIndex<Operand>(row - first, column, kPanel)]);
    }
    for (int i = 0; i < head_dim_; ++i) {
      const auto value = static_cast<float>(values.data[i * values.stride + row]);
      float* to = panel.output + i * kPanel;
      for (int column = 0; column < panel.columns; ++column) to[column] += p[column] * value;
    }
  }

  const ForwardProblem& problem_;
  const TileKernels<Operand>& kernels_;
  const int head_dim_;
  const int depth_;
  Workspace work_;
};

}  // namespace ringwise
