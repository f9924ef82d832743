#pragma once

#include <algorithm>
#include <optional>

#include "attention/forward_block.h"
#include "attention/forward_panel.h"
#include "attention/key_tiles.h"
#include "attention/partial_attention.h"
#include "attention/score_terms.h"
#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tile_view.h"
#include "attention/tiling.h"
#include "attention/value_product.h"
#include "core/dropout_stream.h"
#include "kernels/arena.h"
#include "kernels/dropout_bits.h"
#include "kernels/lines_ahead.h"
#include "kernels/register_tiles.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

namespace ringwise {

// What every walk of one shard's forward shares.
struct ForwardProblem {
  AttentionShape shape;
  Mask mask;
  Dropout dropout;
  ScoreTerms terms;
  float scale = 0;  // of scores as the kernels see them
  ConstTensorView query;
  int64_t query_block = 0;  // see ForwardQueryBlock
};

// Forward of one query block against one key/value block, on one thread. It goes over the visible
// key tiles with the output transposed in a workspace:
//
//   S^T[keys, 64]        = score(K Q^T)
//   P^T[keys, 64]        = 2^(scale S^T - row_max)        row_max, row_sum: vectors over queries
//   O^T[value_dim, 64]  += V^T (P^T where kept)
//
// with row_max the references of ForwardPanel. Pairs that are hidden or dropped reach the output
// with nothing of their value, NaN and infinity included.
template <class Storage, class Operand>
class ForwardWalk {
 public:
  ForwardWalk(const ForwardProblem& problem, const TileKernels<Operand>& kernels,
              std::byte* workspace)
      : problem_(problem),
        kernels_(kernels),
        head_dim_(static_cast<int>(problem.shape.head_dim)),
        value_dim_(static_cast<int>(problem.shape.value_dim)),
        depth_(Depth(problem.shape.head_dim)),
        run_rows_(kernels.product_depth > kRowGroup<Operand> ? kernels.product_depth : kStepRows) {
    Arena arena(workspace);
    work_ = Lay(problem, arena);
  }

  static size_t WorkspaceBytes(const ForwardProblem& problem) {
    Arena counter;
    Lay(problem, counter);
    return counter.used();
  }

  // Attends `queries` (at most a query block) of one head and merges the result into `state`.
  // Returns the number of key tiles that they see.
  int64_t Attend(const ForwardBlock<const Storage>& block, const KeyTiles& key_tiles, int64_t batch,
                 int64_t head, const RowBlock& queries, const PartialAttention& state,
                 ProgressCounter& progress) {
    const int64_t kv_head = head * problem_.shape.kv_heads / problem_.shape.heads;
    const auto panels = static_cast<int>((queries.count() + kPanel - 1) / kPanel);
    const Head of{{problem_.mask, batch, head}, Stream(batch, head)};
    int64_t tiles = 0;
    for (int p = 0; p < panels; ++p) {
      if (p + 1 < panels) AskForPanel(batch, head, Part(queries, (p + 1) * kPanel, kPanel));
      Start(of.plane, Part(queries, p * kPanel, kPanel), work_.panels[p]);
      work_.panels[p].TakeReferences(state.Part(p * kPanel, work_.panels[p].columns));
    }
    key_tiles.ForEachVisible(
        of.plane, queries.positions, [&](const RowBlock& tile, const RowBlock* next) {
          const auto count = static_cast<int>(tile.count());
          Tile keys{
              tile,
              AsOperand(block.Keys(batch, kv_head, tile.begin), count, head_dim_, work_.wide_keys),
              AsOperand(block.Values(batch, kv_head, tile), value_dim_, count, work_.wide_values),
              {}};
          LinesAhead ahead;
          ahead.Start(panels * count / kTileRows);
          if (next != nullptr) {
            LookAhead(block, batch, kv_head, *next, ahead);
          } else if (state.row_sum[0] != 0) {  // all rows or none have a state, as a rule
            ahead.Add(state.output, state.Stride() * kFloatBytes, queries.count(),
                      value_dim_ * kFloatBytes);
          }
          for (int p = 0; p < panels; ++p) AttendTile(of, keys, ahead, work_.panels[p]);
          ++tiles;
          progress.Worked(count * queries.count() * (head_dim_ + value_dim_));
        });
    for (int p = 0; p < panels; ++p) {
      Panel& panel = work_.panels[p];
      MergeTransposed({panel.output, panel.row_max, panel.row_sum, panel.columns, value_dim_,
                       panel.row_weight, kPanel},
                      state.Part(p * kPanel, panel.columns));
    }
    return tiles;
  }

 private:
  using Panel = ForwardPanel<Operand>;

  static constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));
  // Scores made at once: few enough to stay in the nearest cache.
  static constexpr int kStepRows = 48;
  static_assert(Panel::kEnoughKeys <= kStepRows);
  // References are found before the rows are attended: matrix tiles gain by more rows at once, f32
  // gains nothing.
  static constexpr bool kFindsFirst = !kRowsArePacked<Operand>;
  // Rows that are attended at once of a tile that is not seen as a whole: in f32 a step's, because
  // longer sums round more.
  static constexpr int kMostRunRows = kRowsArePacked<Operand> ? kStepRows : kKeyChunk;
  // Probabilities up to 2^8 lose nothing: f32 has room for their sums and products.
  static constexpr float kSlack = 8.0f;
  // The same for a tile of probabilities, all of which may be 1.
  static constexpr float kMostSum = 512.0f;
  static_assert(kMostSum > kKeyChunk);

  struct Head {
    MaskPlane plane;
    std::optional<DropoutStream> stream;  // none: no dropout
  };

  struct Workspace {
    Panel panels[kMostForwardPanels];  // as many as a query block has
    float* scores = nullptr;           // [kStepRows][kPanel]
    float* added = nullptr;            // [kStepRows][kPanel]: see ScoreTerms
    Operand* probabilities = nullptr;  // packed [kKeyChunk][kPackedStride]
    uint64_t* visible = nullptr;       // [kKeyChunk], a bit a column
    uint64_t* kept = nullptr;          // [kStepRows], by dropout
    uint64_t* pairs = nullptr;         // [kKeyChunk], neither hidden nor dropped
    // Only where Storage is widened:
    Operand* wide_queries = nullptr;  // [kPanel][head_dim]
    Operand* wide_keys = nullptr;     // [kKeyChunk][head_dim]
    Operand* wide_values = nullptr;   // [value_dim][kKeyChunk]
  };

  struct Tile {
    RowBlock rows;
    Rows<const Operand> keys;
    Rows<const Operand> values;
    std::optional<bool> finite;  // its values, once somebody has looked
  };

  // A tile on its way into the output: the probabilities of rows [pending, here) are not yet in it.
  struct Pending {
    Rows<const Operand> values;
    int rows = 0;   // of the tile
    int first = 0;  // the row at which probabilities begin
    int pending = 0;
    bool careful = false;               // some value is not finite: over `pairs` alone
    const uint64_t* visible = nullptr;  // of each row of the tile, a bit a column; null: all
    int moves_by = 0;  // the end of a run in which a reference has to move; 0: none so far
  };

  // head_dim as products take it.
  static int Depth(int64_t head_dim) {
    return static_cast<int>(RoundUp(head_dim, kRowGroup<Operand>));
  }

  static Workspace Lay(const ForwardProblem& problem, Arena& arena) {
    const AttentionShape& shape = problem.shape;
    Workspace work;
    for (int64_t p = 0; p < problem.query_block / kPanel; ++p) {
      Panel& panel = work.panels[p];
      panel.query = arena.Take<Operand>(Depth(shape.head_dim) * kPackedStride<Operand>);
      panel.output = arena.Take<float>(shape.value_dim * kPanel);
    }
    work.scores = arena.Take<float>(kStepRows * kPanel);
    work.probabilities = arena.Take<Operand>(kKeyChunk * kPackedStride<Operand>);
    work.visible = arena.Take<uint64_t>(kKeyChunk);
    work.kept = arena.Take<uint64_t>(kStepRows);
    work.pairs = arena.Take<uint64_t>(kKeyChunk);
    work.added = arena.Take<float>(kStepRows * kPanel);
    if constexpr (kWidens<Storage, Operand>) {
      work.wide_queries = arena.Take<Operand>(kPanel * shape.head_dim);
      work.wide_keys = arena.Take<Operand>(kKeyChunk * shape.head_dim);
      work.wide_values = arena.Take<Operand>(shape.value_dim * kKeyChunk);
    }
    return work;
  }

  std::optional<DropoutStream> Stream(int64_t batch, int64_t head) const {
    if (problem_.dropout.probability == 0) return {};
    return DropoutStream(problem_.dropout, batch, head);
  }

  void AskForPanel(int64_t batch, int64_t head, const RowBlock& queries) const {
    const auto rows = HeadRows<const Storage>(problem_.query, batch, queries.begin, head);
    for (int64_t row = 0; row < queries.count(); ++row) {
      AskForRow(rows.data + row * rows.stride, head_dim_ * sizeof(Storage));
    }
  }

  void Start(const MaskPlane& plane, const RowBlock& queries, Panel& panel) const {
    panel.Start(queries, value_dim_);
    const Rows<const Operand> rows =
        AsOperand(HeadRows<const Storage>(problem_.query, plane.batch, queries.begin, plane.head),
                  panel.columns, head_dim_, work_.wide_queries);
    kernels_.pack_transposed(rows.data, rows.stride, panel.columns, head_dim_, panel.query);
  }

  // The tile that comes next.
  static void LookAhead(const ForwardBlock<const Storage>& block, int64_t batch, int64_t kv_head,
                        const RowBlock& next, LinesAhead& ahead) {
    const auto bytes = [&](int64_t width) {
      return next.count() * width * static_cast<int64_t>(sizeof(Storage));
    };
    const Rows<const Storage> keys = block.Keys(batch, kv_head, next.begin);
    const Rows<const Storage> values = block.Values(batch, kv_head, next);
    ahead.Add(keys.data, 0, 1, bytes(keys.stride));
    ahead.Add(values.data, 0, 1, bytes(block.value_dim()));
  }

  void AttendTile(const Head& of, Tile& tile, LinesAhead& ahead, Panel& panel) const {
    const TileView view =
        Look(of.plane, panel.queries, tile.rows, work_.visible, kRowGroup<Operand>);
    if (view.rows.begin == view.rows.end) return;
    const bool hides = view.visible != nullptr || problem_.terms.hides() || of.stream;
    Pending out{tile.values,
                static_cast<int>(tile.rows.count()),
                view.rows.begin,
                view.rows.begin,
                hides && !Finite(tile),
                view.visible};
    const bool fuses = Fuses(panel);
    const bool in_runs = fuses && !of.stream && !out.careful;
    const bool known = panel.young == 0;
    if (kFindsFirst && in_runs && !known) FindReferences(view, tile.keys, out, panel);
    for (int row = view.rows.begin; row < view.rows.end; row += kStepRows) {
      if (in_runs && out.moves_by == 0) row = AttendRuns(view, tile, row, known, out, ahead, panel);
      if (row == view.rows.end) break;
      const TileView::Step step = view.At({row, row + kStepRows});
      if (step.empty()) {
        Flush(row, out, panel);
        out.pending = row + kStepRows;
        continue;
      }
      ScoreTile scores{.scores = work_.scores,
                       .rows = step.rows.end - row,
                       .columns = panel.columns,
                       .scale = problem_.scale,
                       .visible = step.visible};
      const RowBlock step_keys = Part(tile.rows, row, scores.rows);
      if (of.stream) {
        DropoutBits(*of.stream, panel.queries.positions, step_keys.positions, work_.kept);
        scores.kept = work_.kept;
      }
      const Rows<const Operand> rows = From(tile.keys, row);
      Operand* p = work_.probabilities + (row - out.first) * kPackedStride<Operand>;
      const bool discovers = (step.columns & panel.young) != 0;
      const bool may_fuse = fuses && !discovers && !out.careful && out.moves_by != step.rows.end;
      if (!(may_fuse && AttendFused(rows, scores, p, ahead, panel))) {
        Multiply(rows, scores.rows, panel);
        if (!problem_.terms.none()) ApplyTerms(of, step_keys, panel, row, scores);
        if (out.careful) FindPairs(scores, work_.pairs + row);
        if (discovers) Discover(scores, row, out, panel);
        AttendStep(scores, row, out, panel);
      }
    }
    Flush(view.rows.end, out, panel);
  }

  static Rows<const Operand> From(const Rows<const Operand>& rows, int row) {
    return {rows.data + row * rows.stride, rows.stride};
  }

  // The products of the first `rows` of these keys and the panel's queries, into work_.scores.
  void Multiply(const Rows<const Operand>& keys, int rows, const Panel& panel) const {
    kernels_.product(keys.data, keys.stride, panel.query, kPackedStride<Operand>, rows,
                     panel.columns, depth_, work_.scores, kPanel, false);
  }

  // Finds references of young columns by the first rows of the tile that all of them see, if there
  // are enough of these: then no scores have to be kept in memory to find them.
  void FindReferences(const TileView& view, const Rows<const Operand>& keys, Pending& out,
                      Panel& panel) const {
    int row = view.rows.begin;
    int seen = 0;
    while (row + seen < view.rows.end && seen < Panel::kEnoughKeys) {
      if (view.visible == nullptr || (panel.young & ~view.visible[row + seen]) == 0) {
        ++seen;
      } else {
        row += seen + 1;
        seen = 0;
      }
    }
    if (seen < Panel::kEnoughKeys) return;
    const ScoreTile scores{.scores = work_.scores,
                           .rows = Panel::kEnoughKeys,
                           .columns = panel.columns,
                           .scale = problem_.scale};
    Multiply(From(keys, row), scores.rows, panel);
    Discover(scores, view.rows.begin, out, panel);
  }

  // Attends rows from `row` on, those at once that the panel sees as a whole or in part, as far as
  // its references are known; a whole tile only if it `may_be_whole`. Where a reference has to move
  // it says so in `out`: fewer rows at once may have to move it less. Returns the row after.
  int AttendRuns(const TileView& view, const Tile& tile, int row, bool may_be_whole, Pending& out,
                 LinesAhead& ahead, Panel& panel) const {
    while (row < view.rows.end) {
      const bool whole = may_be_whole && view.visible == nullptr && row == view.rows.begin;
      const TileView::Step run = view.RunFrom(row, run_rows_, whole ? kKeyChunk : kMostRunRows);
      if (run.empty() || (run.columns & panel.young) != 0) break;
      const ScoreTile scores{.rows = run.rows.end - row,
                             .columns = panel.columns,
                             .scale = problem_.scale,
                             .visible = run.visible};
      Operand* p = work_.probabilities + (row - out.first) * kPackedStride<Operand>;
      if (!AttendFused(From(tile.keys, row), scores, p, ahead, panel)) {
        out.moves_by = run.rows.end;
        break;
      }
      row = run.rows.end;
    }
    return row;
  }

  // All panels that hide some of a tile ask the same.
  bool Finite(Tile& tile) const {
    if (!tile.finite) {
      tile.finite = AllFinite(tile.values, value_dim_, tile.rows.count());
    }
    return *tile.finite;
  }

  // Whether probabilities may be made straight from the products of keys and queries.
  bool Fuses(const Panel& panel) const {
    return problem_.terms.none() && panel.columns > kPanel - kLanes;
  }

  // AttendStep without scores in memory. False, and nothing done, if the reference has to move.
  bool AttendFused(Rows<const Operand> keys, const ScoreTile& tile, Operand* p, LinesAhead& ahead,
                   Panel& panel) const {
    float reference[kPanel];
    float sums[kPanel];
    float weights[kPanel];
    panel.FiniteReferences(reference);
    kernels_.product_softmax(keys.data, keys.stride, panel.query, depth_, tile, reference, p, sums,
                             weights, ahead);
    bool fits = true;
    for (int i = 0; i < panel.columns; ++i) fits &= sums[i] <= kMostSum;
    if (fits) panel.AddSums(sums, weights);
    return fits;
  }

  // Adds the step's probabilities to the panel's sums and leaves them pending.
  void AttendStep(const ScoreTile& scores, int row, Pending& out, Panel& panel) const {
    Operand* p = work_.probabilities + (row - out.first) * kPackedStride<Operand>;
    float sums[kPanel];
    float weights[kPanel];
    float excess[kPanel];
    if (SoftmaxStep(scores, panel, p, sums, weights, excess) > kSlack) {
      Flush(row, out, panel);
      panel.MoveReferences(kernels_, value_dim_, excess, kSlack);
      SoftmaxStep(scores, panel, p, sums, weights, excess);
    }
    panel.AddSums(sums, weights);
  }

  // Products become scores; what the bias hides is hidden in `scores`.
  void ApplyTerms(const Head& of, const RowBlock& keys, const Panel& panel, int row,
                  ScoreTile& scores) const {
    uint64_t* visible = work_.visible + row;
    if (problem_.terms.hides() && scores.visible == nullptr) {
      std::fill_n(visible, scores.rows, ~uint64_t{0});
    }
    problem_.terms.Apply(of.plane.batch, of.plane.head, panel.queries, keys, work_.scores, nullptr,
                         work_.added, visible);
    if (problem_.terms.hides()) scores.visible = visible;
  }

  static void FindPairs(const ScoreTile& scores, uint64_t* pairs) {
    const uint64_t columns = ~uint64_t{0} >> (kPanel - scores.columns);
    for (int row = 0; row < scores.rows; ++row) {
      pairs[row] = columns;
      if (scores.visible != nullptr) pairs[row] &= scores.visible[row];
      if (scores.kept != nullptr) pairs[row] &= scores.kept[row];
    }
  }

  float SoftmaxStep(const ScoreTile& scores, const Panel& panel, Operand* p, float* sums,
                    float* weights, float* excess) const {
    float reference[kPanel];
    panel.FiniteReferences(reference);
    return kernels_.softmax(scores, reference, p, sums, weights, excess);
  }

  // Finds references of young columns by these scores too.
  void Discover(const ScoreTile& scores, int row, Pending& out, Panel& panel) const {
    float maxima[kPanel];
    float excess[kPanel];
    kernels_.score_maxima(scores, maxima);
    if (!panel.Discover(scores, maxima, excess)) return;
    Flush(row, out, panel);
    panel.MoveReferences(kernels_, value_dim_, excess, 0);
  }

  // The output of the probabilities of rows up to `end`.
  void Flush(int end, Pending& out, Panel& panel) const {
    const int count = end - out.pending;
    if (count > 0) {
      const Rows<const Operand> values{out.values.data + out.pending, out.values.stride};
      Operand* p = work_.probabilities + (out.pending - out.first) * kPackedStride<Operand>;
      if (out.careful) {
        AddValuesOfPairs(values, value_dim_, p, work_.pairs + out.pending, count, panel.output);
      } else if (out.visible != nullptr) {
        AddVisibleValues(kernels_, values, value_dim_, p, out.visible + out.pending, count,
                         out.rows - end, panel.columns, panel.output);
      } else {
        AddValues(kernels_, values, value_dim_, p, count, panel.columns, panel.output);
      }
    }
    out.pending = end;
  }

  const ForwardProblem& problem_;
  const TileKernels<Operand>& kernels_;
  const int head_dim_;
  const int value_dim_;
  const int depth_;
  const int run_rows_;  // looked at together in runs: as many as matrix tiles take, else a step's
  Workspace work_;
};

}  // namespace ringwise
