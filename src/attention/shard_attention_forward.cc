#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/forward_block.h"
#include "attention/partial_attention.h"
#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"

// Forward, one device. An item of work is a block of queries of one head; it walks over the visible
// key tiles with its output transposed in a workspace:
//
//   S^T[keys, 64]         = K Q^T
//   P^T[keys, 64]         = 2^(scale S^T - row_max)        row_max, row_sum: vectors over queries
//   O^T[head_dim, 64]    += V^T P^T
//
// row_max is a reference rather than the maximum: it moves, and O^T is rescaled, only when a score
// exceeds it by more than kSlack, so that scores are normally looked at once.
namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t kQueryBlock = 2 * kPanel;
constexpr int kStepRows = 48;  // scores made at once: they stay in the nearest cache
// Powers of two up to 2^8 lose nothing: sums and products of f32 have room.
constexpr float kSlack = 8.0f;

template <class Operand>
struct PanelState {
  Operand* query = nullptr;  // packed [depth][kPanel]
  float* output = nullptr;   // [head_dim][kPanel]
  float row_max[kPanel];
  float row_sum[kPanel];
  int columns = 0;
  bool unseen = false;  // some column has seen no key yet
};

template <class Operand>
struct Workspace {
  PanelState<Operand> panels[kQueryBlock / kPanel];
  float* scores = nullptr;           // [kStepRows][kPanel]
  Operand* probabilities = nullptr;  // packed [kKeyChunk][kPanel]
  float* rows = nullptr;             // [kPanel][head_dim]: the output, transposed back
  ColumnRange* visible = nullptr;    // [kKeyChunk]
  Operand* wide_queries = nullptr;   // [kQueryBlock][head_dim], and below: only if Storage widens
  Operand* wide_keys = nullptr;      // [kKeyChunk][head_dim]
  Operand* wide_values = nullptr;    // [head_dim][kKeyChunk]
};

template <class Storage, class Operand>
class TiledForward final : public ShardAttentionForward {
 public:
  TiledForward(Context& context, const AttentionShape& shape, const AttentionOptions& options,
               ConstTensorView query, const Positions& query_positions,
               const TileKernels<Operand>& kernels)
      : context_(context),
        kernels_(kernels),
        shape_(shape),
        mask_(options.mask),
        scale_(ScaleToBase2(shape, options)),
        depth_(static_cast<int>(RoundUp(shape.head_dim, kRowGroup<Operand>))),
        query_(query),
        q_len_(Count(query_positions)),
        query_blocks_(CutIntoBlocks(query_positions, kQueryBlock, false)) {
    const int64_t rows = shape.batch * shape.heads * q_len_;
    output_ =
        Buffer(context.meter, MemoryCategory::kActivations, rows * shape.head_dim * sizeof(float));
    row_max_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    row_sum_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    if (rows > 0) std::memset(row_sum_.data(), 0, row_sum_.size());
    Arena counter;
    Lay(counter);
    for (int thread = 0; thread < context.team.size(); ++thread) {
      workspaces_.emplace_back(context.meter, MemoryCategory::kWorkspace, counter.used());
    }
  }

  int64_t BlockBytes(int64_t kv_len) const override {
    return shape_.batch * shape_.kv_heads * Block(kv_len).HeadElements() *
           static_cast<int64_t>(sizeof(Storage));
  }

  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override {
    const int64_t kv_len = Count(positions);
    CheckRows("key", key, shape_, kv_len, shape_.kv_heads);
    CheckRows("value", value, shape_, kv_len, shape_.kv_heads);
    CheckDType("key", key, shape_.dtype);
    CheckDType("value", value, shape_.dtype);
    assert(static_cast<int64_t>(block.size()) == BlockBytes(kv_len));
    const ForwardBlock<Storage> layout = Block(kv_len, block.data());
    const int64_t chunks = (kv_len + kKeyChunk - 1) / kKeyChunk;
    context_.team.ForEach(shape_.batch * shape_.kv_heads * chunks, [&](int64_t index, int) {
      const int64_t begin = index % chunks * kKeyChunk;
      const int64_t head = index / chunks % shape_.kv_heads;
      const int64_t batch = index / chunks / shape_.kv_heads;
      PackChunk(layout, key, value, batch, head, begin, std::min(kKeyChunk, kv_len - begin));
    });
  }

  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              const ProgressHook& progress) override {
    const int64_t kv_len = Count(key_positions);
    assert(static_cast<int64_t>(block.size()) == BlockBytes(kv_len));
    const ForwardBlock<Storage> layout = Block(kv_len, block.data());
    const std::vector<RowBlock> key_tiles = CutIntoBlocks(key_positions, kKeyChunk, true);
    const std::vector<int64_t> order = LongestFirst(key_positions);
    const int64_t heads = shape_.batch * shape_.heads;
    context_.team.ForEach(static_cast<int64_t>(order.size()) * heads,
                          [&](int64_t index, int thread) {
                            ProgressCounter counter(progress, thread);
                            AttendItem(layout, key_tiles, index % heads,
                                       query_blocks_[order[index / heads]], thread, counter);
                          });
  }

  void Finish(TensorView output, TensorView logsumexp) override {
    CheckRows("output", output, shape_, q_len_, shape_.heads);
    CheckLogSumExp(logsumexp, shape_, q_len_);
    context_.team.ForEach(shape_.batch * static_cast<int64_t>(query_blocks_.size()),
                          [&](int64_t index, int) {
                            const auto blocks = static_cast<int64_t>(query_blocks_.size());
                            const RowBlock& rows = query_blocks_[index % blocks];
                            DispatchDType(output.dtype, [&]<class T>(T) {
                              FinishRows<T>(index / blocks, rows, output, logsumexp);
                            });
                          });
  }

 private:
  ForwardBlock<Storage> Block(int64_t kv_len, const std::byte* bytes = nullptr) const {
    return {kv_len, shape_.kv_heads, shape_.head_dim, bytes};
  }

  Workspace<Operand> Lay(Arena& arena) const {
    const int64_t head_dim = shape_.head_dim;
    Workspace<Operand> work;
    for (PanelState<Operand>& panel : work.panels) {
      panel.query = arena.Take<Operand>(depth_ * kPanel);
      panel.output = arena.Take<float>(head_dim * kPanel);
    }
    work.scores = arena.Take<float>(kStepRows * kPanel);
    work.probabilities = arena.Take<Operand>(kKeyChunk * kPanel);
    work.rows = arena.Take<float>(kPanel * head_dim);
    work.visible = arena.Take<ColumnRange>(kKeyChunk);
    if constexpr (kWidens<Storage, Operand>) {
      work.wide_queries = arena.Take<Operand>(kPanel * head_dim);
      work.wide_keys = arena.Take<Operand>(kKeyChunk * head_dim);
      work.wide_values = arena.Take<Operand>(head_dim * kKeyChunk);
    }
    return work;
  }

  void PackChunk(const ForwardBlock<Storage>& layout, const ConstTensorView& key,
                 const ConstTensorView& value, int64_t batch, int64_t head, int64_t begin,
                 int64_t count) const {
    const int64_t head_dim = shape_.head_dim;
    const Rows<Storage> keys = HeadRows<Storage>(key, batch, begin, head);
    const Rows<Storage> packed_keys = layout.Keys(batch, head, begin);
    auto* to = const_cast<Storage*>(packed_keys.data);
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(keys.data + row * keys.stride, head_dim, to);
      std::fill(to + head_dim, to + packed_keys.stride, Storage{});
      to += packed_keys.stride;
    }
    const Rows<Storage> values = HeadRows<Storage>(value, batch, begin, head);
    const Rows<Storage> packed_values = layout.Values(batch, head, begin);
    to = const_cast<Storage*>(packed_values.data);
    Transpose(values.data, values.stride, count, head_dim, to, packed_values.stride);
    for (int64_t i = 0; count < packed_values.stride && i < head_dim; ++i) {
      to[i * packed_values.stride + count] = Storage{};
    }
  }

  // Query blocks by falling number of visible keys, so that the last items to start are short.
  std::vector<int64_t> LongestFirst(const Positions& key_positions) const {
    std::vector<std::pair<int64_t, int64_t>> work;
    for (size_t i = 0; i < query_blocks_.size(); ++i) {
      const int64_t visible = CountVisible(mask_, {query_blocks_[i].positions}, key_positions);
      if (visible > 0) work.emplace_back(-visible, static_cast<int64_t>(i));
    }
    std::sort(work.begin(), work.end());
    std::vector<int64_t> order;
    order.reserve(work.size());
    for (const auto& [visible, index] : work) order.push_back(index);
    return order;
  }

  void AttendItem(const ForwardBlock<Storage>& layout, const std::vector<RowBlock>& key_tiles,
                  int64_t batch_head, const RowBlock& queries, int thread,
                  ProgressCounter& progress) {
    const int64_t batch = batch_head / shape_.heads;
    const int64_t head = batch_head % shape_.heads;
    const int64_t kv_head = head * shape_.kv_heads / shape_.heads;
    Arena arena(workspaces_[thread].data());
    Workspace<Operand> work = Lay(arena);
    const auto panels = static_cast<int>((queries.count() + kPanel - 1) / kPanel);
    for (int p = 0; p < panels; ++p) {
      StartPanel(batch, head, Part(queries, p * kPanel, kPanel), work, work.panels[p]);
    }
    for (const RowBlock& tile : key_tiles) {
      if (Classify(mask_, queries.positions, tile.positions) == TileKind::kEmpty) continue;
      const auto count = static_cast<int>(tile.count());
      const Rows<Operand> keys = AsOperand(layout.Keys(batch, kv_head, tile.begin), count,
                                           shape_.head_dim, work.wide_keys);
      const Rows<Operand> values = AsOperand(layout.Values(batch, kv_head, tile.begin),
                                             shape_.head_dim, count, work.wide_values);
      for (int p = 0; p < panels; ++p) {
        AttendTile(keys, values, tile, Part(queries, p * kPanel, kPanel), work, work.panels[p]);
      }
      progress.Worked(2 * count * queries.count() * shape_.head_dim);
    }
    for (int p = 0; p < panels; ++p) {
      MergePanel(batch_head, Part(queries, p * kPanel, kPanel), work, work.panels[p]);
    }
  }

  void StartPanel(int64_t batch, int64_t head, const RowBlock& queries, Workspace<Operand>& work,
                  PanelState<Operand>& panel) const {
    panel.columns = static_cast<int>(queries.count());
    const Rows<Operand> rows = AsOperand(HeadRows<Storage>(query_, batch, queries.begin, head),
                                         panel.columns, shape_.head_dim, work.wide_queries);
    kernels_.pack_transposed(rows.data, rows.stride, panel.columns,
                             static_cast<int>(shape_.head_dim), panel.query);
    std::fill_n(panel.output, shape_.head_dim * kPanel, 0.0f);
    std::fill_n(panel.row_sum, kPanel, 0.0f);
    std::fill_n(panel.row_max, panel.columns, -kInfinity);
    std::fill(panel.row_max + panel.columns, panel.row_max + kPanel, 0.0f);
    panel.unseen = true;
  }

  void AttendTile(Rows<Operand> keys, Rows<Operand> values, const RowBlock& tile,
                  const RowBlock& queries, Workspace<Operand>& work,
                  PanelState<Operand>& panel) const {
    const TileKind kind = Classify(mask_, queries.positions, tile.positions);
    if (kind == TileKind::kEmpty) return;
    VisibleRows rows{0, static_cast<int>(tile.count())};
    const ColumnRange* visible = nullptr;
    if (kind == TileKind::kPartial) {
      rows = FindVisible(mask_, queries.positions, tile.positions, work.visible);
      visible = work.visible;
    }
    int pending =
        rows.begin;  // rows from here on have probabilities that are not yet in the output
    for (int row = rows.begin; row < rows.end; row += kStepRows) {
      ScoreTile scores{.scores = work.scores,
                       .rows = std::min(kStepRows, rows.end - row),
                       .columns = panel.columns,
                       .scale = scale_,
                       .visible = visible == nullptr ? nullptr : visible + row};
      kernels_.product(keys.data + row * keys.stride, keys.stride, panel.query, kPanel, scores.rows,
                       panel.columns, depth_, work.scores, kPanel, false);
      if (panel.unseen) Discover(scores, panel);
      Operand* p = work.probabilities + (row - rows.begin) * kPanel;
      float sums[kPanel];
      float excess[kPanel];
      if (kernels_.softmax(scores, Reference(panel).values, p, sums, excess) > kSlack) {
        AddValues(values, rows.begin, pending, row, work, panel);
        pending = row;
        MoveReference(excess, panel);
        kernels_.softmax(scores, Reference(panel).values, p, sums, excess);
      }
      for (int i = 0; i < panel.columns; ++i) panel.row_sum[i] += sums[i];
    }
    AddValues(values, rows.begin, pending, rows.end, work, panel);
  }

  // row_max, with a finite number for columns that have seen nothing.
  struct SafeReference {
    float values[kPanel];
  };
  static SafeReference Reference(const PanelState<Operand>& panel) {
    SafeReference safe;
    for (int i = 0; i < kPanel; ++i) {
      safe.values[i] = panel.row_max[i] == -kInfinity ? 0.0f : panel.row_max[i];
    }
    return safe;
  }

  // Columns that see their first keys start from the largest score of these.
  void Discover(const ScoreTile& scores, PanelState<Operand>& panel) const {
    float maxima[kPanel];
    kernels_.score_maxima(scores, maxima);
    panel.unseen = false;
    for (int i = 0; i < panel.columns; ++i) {
      if (panel.row_max[i] == -kInfinity) panel.row_max[i] = maxima[i];
      if (panel.row_max[i] == -kInfinity) panel.unseen = true;
    }
  }

  void MoveReference(const float* excess, PanelState<Operand>& panel) const {
    float factors[kPanel];
    std::fill_n(factors, kPanel, 1.0f);
    for (int i = 0; i < panel.columns; ++i) {
      if (!(excess[i] > kSlack)) continue;
      const float moved = panel.row_max[i] + excess[i];
      factors[i] = std::exp2(panel.row_max[i] - moved);
      panel.row_max[i] = moved;
      panel.row_sum[i] *= factors[i];
    }
    kernels_.scale_columns(factors, static_cast<int>(shape_.head_dim), panel.output);
  }

  // Adds V^T P^T of key rows [begin, end); probabilities start at row `first`.
  void AddValues(Rows<Operand> values, int first, int begin, int end, Workspace<Operand>& work,
                 PanelState<Operand>& panel) const {
    if (begin == end) return;
    kernels_.product(
        values.data + begin, values.stride, work.probabilities + (begin - first) * kPanel, kPanel,
        static_cast<int>(shape_.head_dim), panel.columns,
        static_cast<int>(RoundUp(end - begin, kRowGroup<Operand>)), panel.output, kPanel, true);
  }

  PartialAttention State(int64_t batch_head, const RowBlock& rows) {
    const int64_t row = batch_head * q_len_ + rows.begin;
    return {output_.as<float>() + row * shape_.head_dim, row_max_.as<float>() + row,
            row_sum_.as<float>() + row, rows.count(), shape_.head_dim};
  }

  void MergePanel(int64_t batch_head, const RowBlock& queries, Workspace<Operand>& work,
                  PanelState<Operand>& panel) {
    Transpose(panel.output, kPanel, shape_.head_dim, panel.columns, work.rows, shape_.head_dim);
    Merge({work.rows, panel.row_max, panel.row_sum, panel.columns, shape_.head_dim},
          State(batch_head, queries));
  }

  template <class T>
  void FinishRows(int64_t batch, const RowBlock& rows, const TensorView& output,
                  const TensorView& logsumexp) {
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const PartialAttention state = State(batch * shape_.heads + head, rows);
      for (int64_t row = 0; row < rows.count(); ++row) {
        const RowResult result = Normalise(state.row_max[row], state.row_sum[row]);
        *logsumexp.at<float>(batch, head, rows.begin + row) = result.logsumexp;
        const float* from = state.output + row * shape_.head_dim;
        T* to = output.at<T>(batch, rows.begin + row, head);
        for (int64_t i = 0; i < shape_.head_dim; ++i) {
          to[i] = state.row_sum[row] == 0 ? T(0.0f) : T(result.factor * from[i]);
        }
      }
    }
  }

  Context& context_;
  const TileKernels<Operand>& kernels_;
  const AttentionShape shape_;
  const Mask mask_;
  const float scale_;
  const int depth_;  // head_dim as products take it
  const ConstTensorView query_;
  const int64_t q_len_;
  const std::vector<RowBlock> query_blocks_;
  Buffer output_;   // the state, [batch, heads, q_len, head_dim]
  Buffer row_max_;  // [batch, heads, q_len]
  Buffer row_sum_;
  std::vector<Buffer> workspaces_;  // of each thread
};

}  // namespace

std::unique_ptr<ShardAttentionForward> MakeShardAttentionForward(Context& context,
                                                                 const AttentionShape& shape,
                                                                 const AttentionOptions& options,
                                                                 ConstTensorView query,
                                                                 const Positions& query_positions) {
  CheckAttentionShape(shape);
  CheckRows("query", query, shape, Count(query_positions), shape.heads);
  CheckDType("query", query, shape.dtype);
  if (shape.dtype == DType::kF32) {
    return std::make_unique<TiledForward<float, float>>(context, shape, options, query,
                                                        query_positions, FloatTileKernels());
  }
  if (const TileKernels<bf16>* native = NativeBf16TileKernels()) {
    return std::make_unique<TiledForward<bf16, bf16>>(context, shape, options, query,
                                                      query_positions, *native);
  }
  return std::make_unique<TiledForward<bf16, float>>(context, shape, options, query,
                                                     query_positions, FloatTileKernels());
}

}  // namespace ringwise
