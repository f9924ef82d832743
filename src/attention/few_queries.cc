#include "attention/few_queries.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/partial_attention.h"
#include "attention/row_finisher.h"
#include "attention/score_terms.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"
#include "kernels/row_attention.h"

namespace ringwise {
namespace {

constexpr int64_t kMostRows = 64;  // that share a kv_head
static_assert(kMostRows <= kMostTileRows);
// From so many on matrix tiles are faster than vectors; fewer wait for memory in either.
constexpr int64_t kLeastTileRows = 8;
// Keys that the mask is asked about at once.
constexpr int64_t kTileKeys = 256;
// Tiles of one task: enough to outweigh its partial result.
constexpr int64_t kTaskTiles = 8;

template <class Element>
class FewQueries {
 public:
  FewQueries(Context& context, const AttentionShape& shape, const AttentionOptions& options,
             const AttentionInputs& inputs, const Positions& query_positions,
             const Positions& key_positions)
      : context_(context),
        shape_(shape),
        options_(options),
        inputs_(inputs),
        scale_(ScaleToBase2(shape, options)),
        q_len_(Count(query_positions)),
        queries_(CutIntoBlocks(query_positions, kMostRows)),
        tiles_(CutIntoBlocks(key_positions, kTileKeys)),
        tasks_(std::max<int64_t>(1, (std::ssize(tiles_) + kTaskTiles - 1) / kTaskTiles)),
        rows_(shape.heads * q_len_),
        by_tiles_(std::is_same_v<Element, bf16> && rows_ / shape.kv_heads >= kLeastTileRows &&
                  CanAttendByTiles(shape.head_dim, shape.value_dim)),
        floats_(Lines(rows_ * shape.value_dim) + (by_tiles_ ? 3 : 2) * Lines(rows_) +
                Lines(rows_ * shape.head_dim)),
        tile_counts_(tasks_ * shape.batch),
        partials_(context.meter, MemoryCategory::kWorkspace,
                  static_cast<size_t>(tasks_ * shape.batch * floats_) * sizeof(float)) {}

  AttentionStats Attend(const AttentionOutputs& outputs) {
    context_.team.ForEach(std::ssize(tile_counts_), [&](int64_t task, int) { Run(task); });
    const RowFinisher finisher(options_, outputs);
    for (int64_t batch = 0; batch < shape_.batch; ++batch) {
      for (int64_t part = 1; part < tasks_; ++part) {
        Merge(Partial(batch * tasks_ + part), Partial(batch * tasks_));
      }
      for (int64_t head = 0; head < shape_.heads; ++head) {
        finisher.Finish(Partial(batch * tasks_).Part(head * q_len_, q_len_), batch, head, 0);
      }
    }
    return {std::accumulate(tile_counts_.begin(), tile_counts_.end(), int64_t{0}), kMostRows,
            kTileKeys};
  }

 private:
  // Floats of whole cache lines.
  static int64_t Lines(int64_t floats) { return RoundUp(floats, 16); }

  // What a head's queries of one run see of a tile.
  struct View {
    TileKind kind = TileKind::kEmpty;
    std::array<uint64_t, kTileKeys> visible;  // of each key, a bit a query; where kind is partial
  };

  // Some tiles of one sequence; rows are [head][query].
  void Run(int64_t task) {
    const int64_t batch = task / tasks_;
    const AttentionRows rows = Start(task, batch);
    std::vector<View> views(shape_.heads * queries_.size());
    const int64_t first = task % tasks_ * kTaskTiles;
    const int64_t last = std::min(first + kTaskTiles, static_cast<int64_t>(std::ssize(tiles_)));
    Range whole;  // keys that all rows see, not attended yet
    for (int64_t index = first; index < last; ++index) {
      const RowBlock& tile = tiles_[index];
      tile_counts_[task] += Look(tile, batch, views);
      if (SeenByAll(views)) {
        if (whole.size() == 0) whole.begin = tile.begin;
        whole.end = tile.begin + tile.count();
        continue;
      }
      AttendKeys(std::exchange(whole, {}), batch, 0, rows);
      AttendViews(tile, batch, views, rows);
    }
    AttendKeys(whole, batch, 0, rows);
  }

  // All rows, before any key, with their queries in f32.
  AttentionRows Start(int64_t task, int64_t batch) {
    const PartialAttention partial = Partial(task);
    std::fill_n(partial.row_sum, rows_, 0.0f);
    if (by_tiles_) std::fill_n(partial.row_weight, rows_, 0.0f);
    float* queries = partial.row_sum + (by_tiles_ ? 2 : 1) * Lines(rows_);
    for (int64_t row = 0; row < rows_; ++row) {
      Convert(inputs_.query.at<Element>(batch, row % q_len_, row / q_len_), shape_.head_dim,
              queries + row * shape_.head_dim);
    }
    return {.kv_heads = shape_.kv_heads,
            .rows = rows_ / shape_.kv_heads,
            .head_dim = shape_.head_dim,
            .value_dim = shape_.value_dim,
            .scale = scale_,
            .query = queries,
            .output = partial.output,
            .row_max = partial.row_max,
            .row_sum = partial.row_sum,
            .row_weight = partial.row_weight};
  }

  // Returns the number of views that are not empty.
  int64_t Look(const RowBlock& tile, int64_t batch, std::vector<View>& views) const {
    int64_t seen = 0;
    auto view = views.begin();
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const MaskPlane plane{options_.mask, batch, head};
      for (const RowBlock& queries : queries_) {
        view->kind = Classify(plane, queries.positions, tile.positions);
        if (view->kind == TileKind::kPartial) {
          VisibleBits(plane, queries.positions, tile.positions,
                      {view->visible.data(), static_cast<size_t>(tile.count())});
        }
        seen += view->kind == TileKind::kEmpty ? 0 : 1;
        ++view;
      }
    }
    return seen;
  }

  static bool SeenByAll(const std::vector<View>& views) {
    return std::ranges::all_of(views,
                               [](const View& view) { return view.kind == TileKind::kFull; });
  }

  // Head by head. Where some queries see some keys: run by run, so that hidden keys and values are
  // not touched, whatever they hold.
  void AttendViews(const RowBlock& tile, int64_t batch, const std::vector<View>& views,
                   const AttentionRows& rows) const {
    auto view = views.begin();
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const int64_t kv_head = head * shape_.kv_heads / shape_.heads;
      for (const RowBlock& queries : queries_) {
        const View& seen = *view++;
        const int64_t row = head * q_len_ + queries.begin;
        if (seen.kind == TileKind::kFull) {
          AttendKeys({tile.begin, tile.begin + tile.count()}, batch, kv_head,
                     Some(rows, row, queries.count()));
        } else if (seen.kind == TileKind::kPartial) {
          for (int64_t query = 0; query < queries.count(); ++query) {
            AttendVisible(tile, seen, query, batch, kv_head, Some(rows, row + query, 1));
          }
        }
      }
    }
  }

  void AttendVisible(const RowBlock& tile, const View& view, int64_t query, int64_t batch,
                     int64_t kv_head, const AttentionRows& row) const {
    for (int64_t begin = 0; begin < tile.count();) {
      int64_t end = begin;
      while (end < tile.count() && (view.visible[end] >> query & 1) != 0) ++end;
      AttendKeys({tile.begin + begin, tile.begin + end}, batch, kv_head, row);
      begin = end + 1;
    }
  }

  // Rows of one kv_head.
  static AttentionRows Some(AttentionRows all, int64_t first, int64_t count) {
    all.kv_heads = 1;
    all.rows = count;
    all.query += first * all.head_dim;
    all.output += first * all.value_dim;
    all.row_max += first;
    all.row_sum += first;
    if (all.row_weight != nullptr) all.row_weight += first;
    return all;
  }

  void AttendKeys(const Range& keys, int64_t batch, int64_t kv_head,
                  const AttentionRows& rows) const {
    if (keys.size() == 0) return;
    const auto matrix = [&](const ConstTensorView& view) -> typename KeyValueRows<Element>::Matrix {
      return {view.at<Element>(batch, keys.begin, kv_head), view.strides[1], view.strides[2]};
    };
    const KeyValueRows<Element> some{matrix(inputs_.key), matrix(inputs_.value), keys.size()};
    if constexpr (std::is_same_v<Element, bf16>) {
      if (by_tiles_ && rows.rows >= kLeastTileRows) return AttendRowsByTiles(some, rows);
    }
    AttendRows(some, rows);
  }

  PartialAttention Partial(int64_t task) {
    float* memory = partials_.as<float>() + task * floats_;
    float* row_max = memory + Lines(rows_ * shape_.value_dim);
    float* row_sum = row_max + Lines(rows_);
    return {memory, row_max,          row_sum,
            rows_,  shape_.value_dim, by_tiles_ ? row_sum + Lines(rows_) : nullptr};
  }

  Context& context_;
  const AttentionShape& shape_;
  const AttentionOptions& options_;
  const AttentionInputs& inputs_;
  const float scale_;
  const int64_t q_len_;
  const std::vector<RowBlock> queries_;
  const std::vector<RowBlock> tiles_;
  const int64_t tasks_;               // of a sequence, along its keys
  const int64_t rows_;                // of a sequence
  const bool by_tiles_;               // where enough rows are attended together
  const int64_t floats_;              // of a task: its partial result and its queries
  std::vector<int64_t> tile_counts_;  // of each task, [batch][tasks]
  Buffer partials_;
};

}  // namespace

bool SuitsFewQueries(const AttentionShape& shape, const AttentionOptions& options, int64_t q_len,
                     const Positions& key_positions) {
  const int64_t keys = Count(key_positions);
  return keys >= std::max(kFewQueriesLeastKeys, kTileKeys * std::ssize(key_positions)) &&
         shape.heads / shape.kv_heads * q_len <= kMostRows && options.dropout.probability == 0 &&
         ScoreTerms(shape, options).none();
}

AttentionStats AttendFewQueries(Context& context, const AttentionShape& shape,
                                const AttentionOptions& options, const AttentionInputs& inputs,
                                const Positions& query_positions, const Positions& key_positions,
                                const AttentionOutputs& outputs) {
  CheckForward(shape, inputs.query, Count(query_positions), outputs);
  CheckKeyValue(inputs.key, inputs.value, shape, Count(key_positions));
  AttentionStats stats;
  DispatchDType(shape.dtype, [&]<class Element>(Element) {
    stats = FewQueries<Element>(context, shape, options, inputs, query_positions, key_positions)
                .Attend(outputs);
  });
  return stats;
}

}  // namespace ringwise
