#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <limits>
#include <optional>
#include <vector>

#include "attention/backward_block.h"
#include "attention/backward_problem.h"
#include "attention/backward_workspace.h"
#include "attention/query_gradient.h"
#include "attention/score_terms.h"
#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tile_view.h"
#include "attention/tiling.h"
#include "kernels/arena.h"
#include "kernels/dropout_bits.h"
#include "kernels/lines_ahead.h"
#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

namespace ringwise {

// Backward of one key tile of one kv_head, on one thread. It goes over the visible query blocks of
// all heads that share the kv_head, with dk and dv in a workspace:
//
//   S^T[keys, queries]  = K Q^T           P^T  = 2^(scale S^T - logsumexp)
//   dP^T[keys, queries] = V dO^T          dS^T = P^T (dP^T - delta)
//   dV[keys, value_dim] += P^T dO         dK[keys, head_dim] += dS^T Q
//   dQ^T[head_dim, queries] += K^T dS^T
//
// The scale of dK and dQ is applied once, when they leave, and so is the 1 / (1 - p) of dropout to
// dV. With softcap, dS is the gradient of what is capped; before that it is the bias's.
template <class Storage, class Operand>
class BackwardWalk {
 public:
  BackwardWalk(const BackwardProblem& problem, const TileKernels<Operand>& kernels,
               std::byte* workspace)
      : problem_(problem),
        kernels_(kernels),
        head_dim_(static_cast<int>(problem.shape.head_dim)),
        value_dim_(static_cast<int>(problem.shape.value_dim)),
        dropout_factor_(static_cast<float>(1 / (1 - problem.dropout.probability))),
        plain_(problem.terms.none() && problem.dropout.probability == 0),
        tile_rows_(problem.tile_rows) {
    Arena arena(workspace);
    work_ = Workspace::Lay(problem.shape, tile_rows_, arena);
  }

  static size_t WorkspaceBytes(const BackwardProblem& problem) {
    Arena counter;
    Workspace::Lay(problem.shape, problem.tile_rows, counter);
    return counter.used();
  }

  // sums += dk, dv of `tile` of head group batch * kv_heads + kv_head; `copy` of dq += its part.
  void Attend(const KeyValueRows& rows, const KeyValueSums& sums, const RowBlock& tile,
              int64_t group, QueryGradient& dq, int copy, ProgressCounter& progress) const {
    const int64_t batch = group / problem_.shape.kv_heads;
    const int64_t kv_head = group % problem_.shape.kv_heads;
    const int64_t heads = problem_.shape.heads / problem_.shape.kv_heads;
    const std::vector<QueryPart> parts =
        FindQueryParts(problem_, batch, kv_head * heads, heads, tile.positions);
    if (parts.empty()) return;
    KeyTile keys = StartTile(rows, batch, kv_head, tile);
    for (size_t i = 0; i < parts.size(); ++i) {
      const QueryPart* next = i + 1 < parts.size() ? &parts[i + 1] : nullptr;
      LoadQueries(parts[i]);
      AttendTile(keys, parts[i], next, dq, copy);
      progress.Worked((3 * head_dim_ + 2 * value_dim_) * tile.count() * parts[i].queries.count());
    }
    for (int64_t row = 0; row < keys.count; ++row) {
      const int64_t asked = tile.begin + std::min<int64_t>(row + kRowsAhead, keys.count - 1);
      AskForRow(sums.key.at<float>(batch, asked, kv_head), head_dim_ * sizeof(float));
      AskForRow(sums.value.at<float>(batch, asked, kv_head), value_dim_ * sizeof(float));
      float* dk = sums.key.at<float>(batch, tile.begin + row, kv_head);
      float* dv = sums.value.at<float>(batch, tile.begin + row, kv_head);
      const auto scale = static_cast<float>(problem_.scale);
      for (int64_t i = 0; i < head_dim_; ++i)
        dk[i] += scale * work_.dk.data[row * work_.dk.stride + i];
      for (int64_t i = 0; i < value_dim_; ++i) {
        dv[i] += dropout_factor_ * work_.dv.data[row * work_.dv.stride + i];
      }
    }
  }

 private:
  using Workspace = BackwardWorkspace<Storage, Operand>;

  static constexpr int kRowsAhead = 8;

  struct KeyTile {
    RowBlock block;
    int count = 0;
    Rows<const Operand> keys;
    Rows<const Operand> values;
    std::optional<bool> finite;  // its keys, once somebody has looked
  };

  KeyTile StartTile(const KeyValueRows& rows, int64_t batch, int64_t kv_head,
                    const RowBlock& tile) const {
    const auto count = static_cast<int>(tile.count());
    const auto load = [&](const ConstTensorView& view, int dim, Operand* to) {
      const auto depth = static_cast<int>(RoundUp(dim, kRowGroup<Operand>));
      for (int row = 0; row < count; ++row, to += depth) {
        const int asked = std::min(row + kRowsAhead, count - 1);
        AskForRow(view.at<Storage>(batch, tile.begin + asked, kv_head), dim * sizeof(Storage));
        Convert(view.at<Storage>(batch, tile.begin + row, kv_head), dim, to);
        std::fill(to + dim, to + depth, Operand{});
      }
      return Rows<const Operand>{to - count * depth, depth};
    };
    const KeyTile keys{tile,
                       count,
                       load(rows.key, head_dim_, work_.keys),
                       load(rows.value, value_dim_, work_.values),
                       {}};
    Transpose(keys.keys.data, keys.keys.stride, count, head_dim_, work_.keys_transposed,
              tile_rows_);
    if (count % kRowGroup<Operand> != 0) {
      for (int64_t i = 0; i < head_dim_; ++i) {
        work_.keys_transposed[i * tile_rows_ + count] = Operand{};
      }
    }
    std::fill_n(work_.dk.data, count * work_.dk.stride, 0.0f);
    std::fill_n(work_.dv.data, count * work_.dv.stride, 0.0f);
    return keys;
  }

  void LoadQueries(const QueryPart& part) const {
    const RowBlock& queries = part.queries;
    const auto count = static_cast<int>(queries.count());
    const auto load = [&](const ConstTensorView& view, const QueryOperands<Operand>& to) {
      const Rows<const Operand> rows =
          AsOperand(HeadRows<const Storage>(view, part.batch, queries.begin, part.head), count,
                    to.length, work_.wide_queries);
      kernels_.pack_rows(rows.data, rows.stride, count, to.length,
                         QueryOperands<Operand>::kPanelRows, to.rows);
      for (int p = 0; p * kPanel < count; ++p) {
        kernels_.pack_transposed(rows.data + p * kPanel * rows.stride, rows.stride,
                                 std::min(kPanel, count - p * kPanel), to.length, to.transposed[p]);
      }
    };
    load(problem_.query, work_.query);
    load(problem_.output_gradient, work_.d_output);
    const int64_t statistic =
        (part.batch * problem_.shape.heads + part.head) * problem_.q_len + queries.begin;
    std::copy_n(problem_.logsumexp + statistic, count, work_.logsumexp);
    std::copy_n(problem_.delta + statistic, count, work_.delta);
    std::fill(work_.logsumexp + count, work_.logsumexp + kBackwardQueryBlock,
              std::numeric_limits<float>::infinity());
    std::fill(work_.delta + count, work_.delta + kBackwardQueryBlock, 0.0f);
  }

  void AttendTile(KeyTile& tile, const QueryPart& part, const QueryPart* next, QueryGradient& dq,
                  int copy) const {
    const RowBlock& queries = part.queries;
    const MaskPlane plane{problem_.mask, part.batch, part.head};
    TileView panels[kBackwardPanels];
    QueryGradient::Panel sums[kBackwardPanels];
    uint64_t seen[kBackwardPanels] = {};  // steps with a visible pair, a bit a step
    const auto panel_count = static_cast<int>(Panels(queries.count()));
    for (int p = 0; p < panel_count; ++p) {
      panels[p] = Look(plane, Part(queries, p * kPanel, kPanel), tile.block, work_.visible[p],
                       kRowGroup<Operand>);
      sums[p] = dq.At(copy, part.batch * problem_.shape.heads + part.head, panels[p].queries.begin);
    }
    LinesAhead ahead = LookAhead(panels, sums, next);
    if (!FiniteWhereUnused(tile, panels, queries)) {
      for (int p = 0; p < panel_count; ++p) {
        AttendPairs(plane, tile, panels[p], p, sums[p]);
      }
      return;
    }
    for (int row = 0; row < tile.count; row += kBackwardStep) {
      const VisibleRows rows{row, std::min(row + kBackwardStep, tile.count)};
      VisibleRows step{rows.end, rows.begin};  // those that are seen
      TileView::Step views[kBackwardPanels];
      for (int p = 0; p < panel_count; ++p) {
        views[p] = panels[p].At(rows);
        if (views[p].empty()) continue;
        step.begin = std::min(step.begin, views[p].rows.begin);
        step.end = std::max(step.end, views[p].rows.end);
        seen[p] |= uint64_t{1} << row / kBackwardStep;
      }
      for (int p = 0; p < panel_count; ++p) {
        if (views[p].empty()) continue;
        MakeScoreGradients(plane, tile, panels[p], p, step, views[p], ahead);
      }
      ForEachSeen(views, [&](VisibleRows run, int first, int last) {
        const auto queries_end =
            static_cast<int>(std::min<int64_t>(queries.count(), int64_t{last} * kPanel));
        const int64_t at = (run.begin - step.begin) * kScoreStride<Operand> + first * kPanel;
        const int begin = first * kPanel;
        AddRowGradients(run, work_.p + at, work_.d_output, begin, queries_end, work_.dv);
        AddRowGradients(run, work_.StepDs(step.begin) + at, work_.query, begin, queries_end,
                        work_.dk);
      });
    }
    for (int p = 0; p < panel_count; ++p) {
      if (seen[p] == 0) continue;
      AddQueryGradient(panels[p], tile.count, p, seen[p], sums[p]);
    }
  }

  // Calls visit(rows, first, last) for the rows of a step that panels [first, last) see.
  template <class Visit>
  static void ForEachSeen(const TileView::Step* views, const Visit& visit) {
    std::array<int, size_t{2} * kBackwardPanels> edges;
    for (int p = 0; p < kBackwardPanels; ++p) {
      edges[2 * p] = views[p].rows.begin;
      edges[2 * p + 1] = views[p].rows.end;
    }
    std::ranges::sort(edges);
    for (size_t e = 0; e + 1 < edges.size(); ++e) {
      const VisibleRows rows{edges[e], edges[e + 1]};
      int first = kBackwardPanels;
      int last = 0;
      for (int p = 0; p < kBackwardPanels; ++p) {
        if (views[p].rows.begin > rows.begin || views[p].rows.end < rows.end) continue;
        first = std::min(first, p);
        last = p + 1;
      }
      if (rows.begin < rows.end && first < last) visit(rows, first, last);
    }
  }

  // What is needed after the scores of a tile: dq of its queries, and the next queries.
  LinesAhead LookAhead(const TileView* panels, const QueryGradient::Panel* sums,
                       const QueryPart* next) const {
    LinesAhead ahead;
    int64_t rows = 0;
    for (int p = 0; p < kBackwardPanels; ++p) rows += panels[p].rows.end - panels[p].rows.begin;
    ahead.Start(2 * rows / 6);  // register tiles of the two products
    for (int p = 0; p < kBackwardPanels; ++p) {
      if (panels[p].rows.end == panels[p].rows.begin) continue;
      ahead.Add(sums[p].data, 0, 1, head_dim_ * sums[p].stride * int64_t{sizeof(float)});
    }
    if (next == nullptr) return ahead;
    for (const ConstTensorView* view : {&problem_.query, &problem_.output_gradient}) {
      const Rows<const Storage> rows_of =
          HeadRows<const Storage>(*view, next->batch, next->queries.begin, next->head);
      ahead.Add(rows_of.data, rows_of.stride * int64_t{sizeof(Storage)}, next->queries.count(),
                view->shape[3] * int64_t{sizeof(Storage)});
    }
    return ahead;
  }

  // Whether all factors of zeros are finite, those of hidden and of dropped pairs: see AllFinite.
  bool FiniteWhereUnused(KeyTile& tile, const TileView* panels, const RowBlock& queries) const {
    const bool hides = problem_.terms.hides() ||
                       std::any_of(panels, panels + kBackwardPanels,
                                   [](const TileView& v) { return v.visible != nullptr; });
    if (hides && !tile.finite) tile.finite = AllFinite(tile.keys, tile.count, head_dim_);
    if (hides && !(*tile.finite && Finite(work_.query, queries))) return false;
    const bool drops = problem_.dropout.probability != 0;
    return !(hides || drops) || Finite(work_.d_output, queries);
  }
  bool Finite(const QueryOperands<Operand>& operands, const RowBlock& queries) const {
    const Rows<const Operand> packed{operands.rows, QueryOperands<Operand>::kPanelRows};
    return AllFinite(packed, Panels(operands.length),
                     RoundUp(queries.count(), kRowGroup<Operand>) * kPackedStride<Operand>);
  }

  // One panel against the tile, all products over visible pairs alone.
  void AttendPairs(const MaskPlane& plane, const KeyTile& tile, const TileView& panel, int p,
                   QueryGradient::Panel dq) const {
    LinesAhead none;
    for (int begin = 0; begin < tile.count; begin += kBackwardStep) {
      const VisibleRows step{begin, std::min(begin + kBackwardStep, tile.count)};
      const TileView::Step view = panel.At(step);
      if (view.empty()) continue;
      const ScoreTile scores = MakeScoreGradients(plane, tile, panel, p, step, view, none);
      for (int i = 0; i < scores.rows; ++i) {
        const uint64_t visible = ~uint64_t{0} >> (kPanel - scores.columns) &
                                 (scores.visible == nullptr ? ~uint64_t{0} : scores.visible[i]);
        const uint64_t kept = scores.kept == nullptr ? visible : scores.kept[i];
        for (uint64_t left = visible; left != 0; left &= left - 1) {
          const int column = std::countr_zero(left);
          AddPair(tile, p, step, view.rows.begin + i, column, (kept >> column & 1) != 0, dq);
        }
      }
    }
  }

  void AddPair(const KeyTile& tile, int p, VisibleRows step, int row, int column, bool kept,
               QueryGradient::Panel dq) const {
    const int64_t query = p * kPanel + column;
    const auto power =
        static_cast<float>(work_.p[(row - step.begin) * kScoreStride<Operand> + query]);
    const auto gradient = static_cast<float>(
        work_.StepDs(step.begin)[(row - step.begin) * kScoreStride<Operand> + query]);
    float* dk = work_.dk.data + row * work_.dk.stride;
    float* dv = work_.dv.data + row * work_.dv.stride;
    for (int64_t i = 0; kept && i < value_dim_; ++i) dv[i] += power * work_.d_output.At(query, i);
    for (int64_t i = 0; i < head_dim_; ++i) {
      dk[i] += gradient * work_.query.At(query, i);
      dq.data[i * dq.stride + column] +=
          gradient * static_cast<float>(tile.keys.data[row * tile.keys.stride + i]);
    }
  }

  // P and dS of the key rows of one step that a panel sees. Returns which of its pairs are visible
  // and kept.
  ScoreTile MakeScoreGradients(const MaskPlane& plane, const KeyTile& tile, const TileView& panel,
                               int p, VisibleRows step, const TileView::Step& view,
                               LinesAhead& ahead) const {
    const int begin = view.rows.begin;
    const int end = view.rows.end;
    Operand* p_step = work_.p + p * kPanel;
    Operand* ds_step = work_.StepDs(step.begin) + p * kPanel;
    ScoreTile scores{.scores = work_.scores,
                     .rows = end - begin,
                     .columns = static_cast<int>(panel.queries.count()),
                     .scale = problem_.scale_base2,
                     .visible = view.visible};
    Operand* p_out = p_step + (begin - step.begin) * kScoreStride<Operand>;
    Operand* ds_out = ds_step + (begin - step.begin) * kScoreStride<Operand>;
    Operand* packed_ds = nullptr;
    if constexpr (!kRowsArePacked<Operand>) {
      packed_ds = work_.packed_ds[p] + begin * kPackedStride<Operand>;
    }
    const float* logsumexp = work_.logsumexp + p * kPanel;
    const float* delta = work_.delta + p * kPanel;
    const auto factors = [&](Rows<const Operand> rows, const QueryOperands<Operand>& queries) {
      return PanelFactors<Operand>{rows.data + begin * rows.stride, rows.stride,
                                   queries.transposed[p], queries.depth};
    };
    const PanelFactors<Operand> of_scores = factors(tile.keys, work_.query);
    const PanelFactors<Operand> of_dp = factors(tile.values, work_.d_output);
    if (plain_ && scores.columns > kPanel - kLanes) {
      kernels_.product_softmax_gradient(of_scores, of_dp, scores, logsumexp, delta, work_.dp, p_out,
                                        ds_out, kScoreStride<Operand>, packed_ds, ahead);
      return scores;
    }
    const auto multiply = [&](const PanelFactors<Operand>& of, float* product) {
      kernels_.product(of.left, of.stride, of.right, kPackedStride<Operand>, scores.rows,
                       scores.columns, of.k, product, kPanel, false);
    };
    multiply(of_scores, work_.scores);
    multiply(of_dp, work_.dp);
    const RowBlock rows = Part(tile.block, begin, scores.rows);
    const ScoreGradientTerms terms = ApplyTerms(plane, panel.queries, rows, scores);
    kernels_.softmax_gradient(scores, terms, work_.dp, logsumexp, delta, p_out, ds_out,
                              kScoreStride<Operand>, packed_ds);
    if (terms.unsloped != nullptr) {
      AddBiasGradient(plane.batch, plane.head, panel.queries, rows, terms.unsloped,
                      *problem_.bias_gradient);
    }
    return scores;
  }

  // Completes the scores of these keys, products so far, with all that the options add to them.
  ScoreGradientTerms ApplyTerms(const MaskPlane& plane, const RowBlock& queries,
                                const RowBlock& keys, ScoreTile& scores) const {
    ScoreGradientTerms terms;
    if (problem_.dropout.probability != 0) {
      const DropoutStream stream(problem_.dropout, plane.batch, plane.head);
      DropoutBits(stream, queries.positions, keys.positions, work_.kept);
      scores.kept = work_.kept;
      terms.dropout_factor = dropout_factor_;
    }
    if (problem_.terms.none()) return terms;
    if (problem_.terms.hides()) {
      if (scores.visible == nullptr) {
        std::fill_n(work_.shown, scores.rows, ~uint64_t{0});
      } else {
        std::copy_n(scores.visible, scores.rows, work_.shown);
      }
      scores.visible = work_.shown;
    }
    if (problem_.terms.sloped()) terms.slopes = work_.slopes;
    problem_.terms.Apply(plane.batch, plane.head, queries, keys, work_.scores,
                         problem_.terms.sloped() ? work_.slopes : nullptr, work_.unsloped,
                         work_.shown);
    scores.scale = 1;
    if (problem_.bias_gradient) terms.unsloped = work_.unsloped;
    return terms;
  }

  // sum += left^T right over queries [first, last) of the block, of some key rows:
  // dV += P^T dO or dK += dS^T Q.
  void AddRowGradients(VisibleRows rows, const Operand* left, const QueryOperands<Operand>& right,
                       int first, int last, const RowGradient& sum) const {
    const auto depth = static_cast<int>(RoundUp(last - first, kRowGroup<Operand>));
    for (int column = 0; column < right.length; column += kPanel) {
      kernels_.product(
          left, kScoreStride<Operand>,
          right.rows + column / kPanel * right.kPanelRows + first * kPackedStride<Operand>,
          kPackedStride<Operand>, rows.end - rows.begin, std::min(kPanel, right.length - column),
          depth, sum.data + rows.begin * sum.stride + column, sum.stride, true);
    }
  }

  // dQ^T += K^T dS^T of one panel, over the steps it sees of a tile of `count` keys: each run of
  // them at once.
  void AddQueryGradient(const TileView& panel, int count, int p, uint64_t seen,
                        QueryGradient::Panel sum) const {
    int first = std::countr_zero(seen);
    while (first < 64) {
      const int last = first + std::countr_one(seen >> first);
      const int begin = std::max(first * kBackwardStep, panel.rows.begin);
      const int end = std::min(last * kBackwardStep, panel.rows.end);
      const Rows<const Operand> ds = work_.PackedDs(p, begin);
      int depth = end - begin;
      if constexpr (!kRowsArePacked<Operand>) {
        // Where pairs are hidden all keys are finite. The zeros end before the next run: a step
        // that is not seen lies between.
        assert(kernels_.product_depth <= kBackwardStep);
        if (panel.visible != nullptr) {
          depth = FillDepth(kernels_, work_.packed_ds[p] + begin * kPackedStride<Operand>, depth,
                            count - begin);
        }
      }
      kernels_.product(work_.keys_transposed + begin, tile_rows_, ds.data, ds.stride, head_dim_,
                       static_cast<int>(panel.queries.count()),
                       static_cast<int>(RoundUp(depth, kRowGroup<Operand>)), sum.data, sum.stride,
                       true);
      first = last + std::countr_zero(seen >> last);
    }
  }

  const BackwardProblem& problem_;
  const TileKernels<Operand>& kernels_;
  const int head_dim_;
  const int value_dim_;
  const float dropout_factor_;
  const bool plain_;  // scores are products times the scale, and none is dropped
  const int64_t tile_rows_;
  Workspace work_;
};

}  // namespace ringwise
