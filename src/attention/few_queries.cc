#include "attention/few_queries.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/partial_attention.h"
#include "attention/score_terms.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"
#include "kernels/row_attention.h"

namespace ringwise {
namespace {

constexpr int64_t kMostRows = 64;  // that share a kv_head
constexpr int64_t kLeastKeys = 16384;
// Keys that the mask is asked about at once.
constexpr int64_t kTileKeys = 256;
// Keys that all rows of all heads read before the next: memory is read in order, a few rows of the
// tensors at a time, and from the nearest cache again.
constexpr int64_t kStepKeys = 64;
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
        floats_(rows_ * (shape.head_dim + shape.value_dim + 2)),
        tile_counts_(tasks_ * shape.batch),
        partials_(context.meter, MemoryCategory::kWorkspace,
                  static_cast<size_t>(tasks_ * shape.batch * floats_) * sizeof(float)) {}

  AttentionStats Attend(const AttentionOutputs& outputs) {
    context_.team.ForEach(std::ssize(tile_counts_), [&](int64_t task, int) { Run(task); });
    for (int64_t batch = 0; batch < shape_.batch; ++batch) {
      for (int64_t part = 1; part < tasks_; ++part) {
        Merge(Partial(batch * tasks_ + part), Partial(batch * tasks_));
      }
      Write(batch, outputs);
    }
    return {std::accumulate(tile_counts_.begin(), tile_counts_.end(), int64_t{0}), kMostRows,
            kTileKeys};
  }

 private:
  // What a head's queries of one run see of a tile.
  struct View {
    TileKind kind = TileKind::kEmpty;
    std::array<uint64_t, kTileKeys> visible;  // of each key, a bit a query; where kind is partial
  };

  // Some tiles of one sequence; rows are [head][query].
  void Run(int64_t task) {
    const int64_t batch = task / tasks_;
    const PartialAttention partial = Partial(task);
    std::vector<AttentionRow> rows = Start(task, batch, partial);
    std::vector<View> views(shape_.heads * queries_.size());
    const int64_t first = task % tasks_ * kTaskTiles;
    const int64_t last = std::min(first + kTaskTiles, static_cast<int64_t>(std::ssize(tiles_)));
    for (int64_t tile = first; tile < last; ++tile) {
      tile_counts_[task] += Look(tiles_[tile], batch, views);
      for (int64_t begin = 0; begin < tiles_[tile].count(); begin += kStepKeys) {
        AttendStep(tiles_[tile], begin, batch, views, rows);
      }
    }
    for (int64_t row = 0; row < rows_; ++row) {
      partial.row_max[row] = rows[row].row_max;
      partial.row_sum[row] = rows[row].row_sum;
    }
  }

  // The rows with their queries in f32, before any key.
  std::vector<AttentionRow> Start(int64_t task, int64_t batch, const PartialAttention& partial) {
    std::vector<AttentionRow> rows(rows_);
    float* query = partials_.as<float>() + task * floats_ + rows_ * (shape_.value_dim + 2);
    for (int64_t row = 0; row < rows_; ++row) {
      Convert(inputs_.query.at<Element>(batch, row % q_len_, row / q_len_), shape_.head_dim, query);
      rows[row] = {.query = query, .output = partial.output + row * shape_.value_dim};
      query += shape_.head_dim;
    }
    return rows;
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

  void AttendStep(const RowBlock& tile, int64_t begin, int64_t batch,
                  const std::vector<View>& views, std::vector<AttentionRow>& rows) const {
    const int64_t end = std::min(begin + kStepKeys, tile.count());
    auto view = views.begin();
    for (int64_t head = 0; head < shape_.heads; ++head) {
      for (const RowBlock& queries : queries_) {
        const View& seen = *view++;
        if (seen.kind == TileKind::kEmpty) continue;
        AttentionRow* row = &rows[head * q_len_ + queries.begin];
        for (int64_t i = 0; i < queries.count(); ++i) {
          if (seen.kind == TileKind::kFull) {
            AttendKeys(tile.begin + begin, tile.begin + end, batch, head, row[i]);
          } else {
            AttendVisible(tile, begin, end, seen, i, batch, head, row[i]);
          }
        }
      }
    }
  }

  // Run by run, so that hidden keys and values are not touched, whatever they hold.
  void AttendVisible(const RowBlock& tile, int64_t begin, int64_t end, const View& view,
                     int64_t query, int64_t batch, int64_t head, AttentionRow& row) const {
    while (begin < end) {
      int64_t stop = begin;
      while (stop < end && (view.visible[stop] >> query & 1) != 0) ++stop;
      if (stop > begin) AttendKeys(tile.begin + begin, tile.begin + stop, batch, head, row);
      begin = stop + 1;
    }
  }

  void AttendKeys(int64_t begin, int64_t end, int64_t batch, int64_t head,
                  AttentionRow& row) const {
    const int64_t kv_head = head * shape_.kv_heads / shape_.heads;
    const auto keys = HeadRows<const Element>(inputs_.key, batch, begin, kv_head);
    const auto values = HeadRows<const Element>(inputs_.value, batch, begin, kv_head);
    AttendRow(
        KeyValueRows<Element>{keys.data, keys.stride, values.data, values.stride, end - begin},
        shape_.head_dim, shape_.value_dim, scale_, row);
  }

  PartialAttention Partial(int64_t task) {
    float* memory = partials_.as<float>() + task * floats_;
    float* row_max = memory + rows_ * shape_.value_dim;
    return {memory, row_max, row_max + rows_, rows_, shape_.value_dim};
  }

  void Write(int64_t batch, const AttentionOutputs& outputs) {
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t head = row / q_len_;
      const PartialAttention partial = Partial(batch * tasks_);
      const float sink = options_.sinks ? *options_.sinks->at<float>(head)
                                        : -std::numeric_limits<float>::infinity();
      const float sum = partial.row_sum[row];
      const RowResult result = Normalise(partial.row_max[row], sum, sum, sink);
      *outputs.logsumexp.at<float>(batch, head, row % q_len_) = result.logsumexp;
      DispatchDType(outputs.output.dtype, [&]<class T>(T) {
        T* to = outputs.output.at<T>(batch, row % q_len_, head);
        for (int64_t i = 0; i < shape_.value_dim; ++i) {
          to[i] = sum == 0 ? T(0.0f) : T(result.factor * partial.Output(row)[i]);
        }
      });
    }
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
  const int64_t floats_;              // of a task: its partial result and its queries
  std::vector<int64_t> tile_counts_;  // of each task, [batch][tasks]
  Buffer partials_;
};

}  // namespace

bool SuitsFewQueries(const AttentionShape& shape, const AttentionOptions& options, int64_t q_len,
                     int64_t kv_len) {
  return kv_len >= kLeastKeys && shape.heads / shape.kv_heads * q_len <= kMostRows &&
         options.dropout.probability == 0 && ScoreTerms(shape, options).none();
}

AttentionStats AttendFewQueries(Context& context, const AttentionShape& shape,
                                const AttentionOptions& options, const AttentionInputs& inputs,
                                const Positions& query_positions, const Positions& key_positions,
                                const AttentionOutputs& outputs) {
  CheckAttentionShape(shape);
  const int64_t q_len = Count(query_positions);
  CheckQueryRows("query", inputs.query, shape, q_len, shape.head_dim);
  CheckKeyValue(inputs.key, inputs.value, shape, Count(key_positions));
  CheckQueryRows("output", outputs.output, shape, q_len, shape.value_dim);
  CheckLogSumExp("logsumexp", outputs.logsumexp, shape, q_len);
  AttentionStats stats;
  DispatchDType(shape.dtype, [&]<class Element>(Element) {
    stats = FewQueries<Element>(context, shape, options, inputs, query_positions, key_positions)
                .Attend(outputs);
  });
  return stats;
}

}  // namespace ringwise
