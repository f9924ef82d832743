#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/backward_block.h"
#include "attention/query_gradient.h"
#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"

// Backward, one device. An item of work is a key tile of one kv_head; it walks over the visible
// query blocks of all heads that share it, with dk and dv in a workspace:
//
//   S^T[keys, queries]  = K Q^T           P^T  = 2^(scale S^T - logsumexp)
//   dP^T[keys, queries] = V dO^T          dS^T = P^T (dP^T - delta),  delta = rowsum(dO * O)
//   dV[keys, head_dim]  += P^T dO         dK[keys, head_dim] += dS^T Q
//   dQ^T[head_dim, queries] += K^T dS^T
//
// The scale of dK and dQ is applied once, when they leave.
namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int kQueryPanels = 2;
constexpr int64_t kQueryBlock = kQueryPanels * kPanel;
constexpr int kStepRows = 48;  // scores made at once: they stay in the nearest cache

// Keys of a tile: as many as leave its operands and gradients in the second cache.
int64_t KeyTileRows(int64_t head_dim) { return head_dim <= 64 ? 384 : 192; }

// Query rows of one head in all the forms that products take.
template <class Operand>
struct QueryOperands {
  Operand* transposed[kQueryPanels] = {};  // packed [depth][kPanel]
  Operand* rows = nullptr;                 // packed [kQueryBlock][kPanel], a panel of head_dim each
};

template <class Operand>
struct Workspace {
  Operand* keys_transposed = nullptr;  // [head_dim][tile rows]
  float* dk = nullptr;                 // [tile rows][padded head_dim]
  float* dv = nullptr;
  QueryOperands<Operand> query;
  QueryOperands<Operand> d_output;
  float* scores = nullptr;                  // [kStepRows][kPanel]
  float* dp = nullptr;                      // [kStepRows][kPanel]
  Operand* p = nullptr;                     // [kStepRows][kQueryBlock]
  Operand* ds = nullptr;                    // [tile rows][kQueryBlock]
  Operand* packed_ds = nullptr;             // packed [tile rows][kQueryBlock]; float: `ds` itself
  float* logsumexp = nullptr;               // [kQueryBlock], base 2
  float* delta = nullptr;                   // [kQueryBlock]
  ColumnRange* visible[kQueryPanels] = {};  // [tile rows]
  Operand* wide_queries = nullptr;          // [kQueryBlock][head_dim], only if Storage widens
  Operand* wide_keys = nullptr;             // [tile rows][head_dim]
  Operand* wide_values = nullptr;
};

// What one panel of queries sees of a key tile.
struct PanelView {
  RowBlock queries;
  VisibleRows rows;                      // none: begin == end
  const ColumnRange* visible = nullptr;  // null: all
};

template <class Storage, class Operand>
class TiledBackward final : public ShardAttentionBackward {
 public:
  TiledBackward(Context& context, const AttentionShape& shape, const AttentionOptions& options,
                const AttentionSaved& saved, const Positions& query_positions,
                const TileKernels<Operand>& kernels)
      : context_(context),
        kernels_(kernels),
        shape_(shape),
        mask_(options.mask),
        scale_(Scale(shape, options)),
        scale_base2_(ScaleToBase2(shape, options)),
        head_dim_(static_cast<int>(shape.head_dim)),
        depth_(static_cast<int>(RoundUp(shape.head_dim, kRowGroup<Operand>))),
        padded_head_dim_(RoundUp(shape.head_dim, kLanes)),
        saved_(saved),
        query_positions_(query_positions),
        q_len_(Count(query_positions)),
        query_blocks_(CutIntoBlocks(query_positions, kQueryBlock, false)),
        dq_(context, query_blocks_, shape.batch, shape.heads, shape.heads / shape.kv_heads,
            shape.head_dim) {
    const int64_t rows = shape.batch * shape.heads * q_len_;
    logsumexp_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    delta_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    context_.team.ForEach(shape.batch * static_cast<int64_t>(query_blocks_.size()),
                          [&](int64_t index, int) { PrepareRows(index); });
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
    const BackwardBlock<Storage> layout = Block(kv_len, block.data());
    context_.team.ForEach(shape_.batch * kv_len, [&](int64_t index, int) {
      const int64_t batch = index / kv_len;
      const int64_t row = index % kv_len;
      for (int64_t head = 0; head < shape_.kv_heads; ++head) {
        PackRow(key.at<Storage>(batch, row, head), layout.Keys(batch, head, row));
        PackRow(value.at<Storage>(batch, row, head), layout.Values(batch, head, row));
      }
    });
  }

  int64_t GradientBytes(int64_t kv_len) const override {
    return 2 * shape_.batch * shape_.kv_heads * kv_len * shape_.head_dim *
           static_cast<int64_t>(sizeof(float));
  }

  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              std::span<std::byte> gradient, const ProgressHook& progress) override {
    const int64_t kv_len = Count(key_positions);
    assert(static_cast<int64_t>(block.size()) == BlockBytes(kv_len));
    assert(static_cast<int64_t>(gradient.size()) == GradientBytes(kv_len));
    const BackwardBlock<Storage> layout = Block(kv_len, block.data());
    const GradientBlock sums = Gradient(kv_len, gradient.data());
    const std::vector<RowBlock> tiles =
        CutIntoBlocks(key_positions, KeyTileRows(shape_.head_dim), false);
    const auto tile_count = static_cast<int64_t>(tiles.size());
    const std::vector<int64_t> bounds = SplitByWork(tiles);
    const int threads = context_.team.size();
    context_.team.Run([&](int thread) {
      // Only the first head group of a thread can have been begun by another one.
      const int64_t begin = bounds[thread];
      const bool shares = begin < bounds[thread + 1] && begin % tile_count != 0;
      const int64_t shared_group = shares ? begin / tile_count : -1;
      if (shares) dq_.ClearPrivate(thread);
      ProgressCounter counter(progress, thread);
      for (int64_t item = begin; item < bounds[thread + 1]; ++item) {
        const int64_t group = item / tile_count;
        AttendItem(layout, sums, tiles[item % tile_count], group, thread, group == shared_group,
                   counter);
      }
      context_.team.Barrier();
      for (int other = 0; other < threads; ++other) {
        const int64_t first = bounds[other];
        if (first < bounds[other + 1] && first % tile_count != 0) {
          dq_.Reduce(other, first / tile_count, threads, thread);
        }
      }
    });
  }

  void AddGradient(std::span<std::byte> sum, std::span<const std::byte> gradient) override {
    assert(sum.size() == gradient.size());
    auto* to = reinterpret_cast<float*>(sum.data());
    const auto* from = reinterpret_cast<const float*>(gradient.data());
    const auto elements = static_cast<int64_t>(sum.size() / sizeof(float));
    context_.team.Run([&](int thread) {
      const Range part = SplitRange(elements, context_.team.size(), thread, 64);
      for (int64_t i = part.begin; i < part.end; ++i) to[i] += from[i];
    });
  }

  void UnpackGradient(std::span<const std::byte> gradient, TensorView key_gradient,
                      TensorView value_gradient) override {
    const int64_t kv_len = key_gradient.shape[1];
    CheckRows("key gradient", key_gradient, shape_, kv_len, shape_.kv_heads);
    CheckRows("value gradient", value_gradient, shape_, kv_len, shape_.kv_heads);
    assert(static_cast<int64_t>(gradient.size()) == GradientBytes(kv_len));
    const GradientBlock sums = Gradient(kv_len, gradient.data());
    context_.team.ForEach(shape_.batch * kv_len, [&](int64_t index, int) {
      const int64_t batch = index / kv_len;
      const int64_t row = index % kv_len;
      for (int64_t head = 0; head < shape_.kv_heads; ++head) {
        WriteRow(sums.Keys(batch, head, row), key_gradient, batch, row, head);
        WriteRow(sums.Values(batch, head, row), value_gradient, batch, row, head);
      }
    });
  }

  void Finish(TensorView query_gradient) override {
    CheckRows("query gradient", query_gradient, shape_, q_len_, shape_.heads);
    dq_.Finish(scale_, query_gradient);
  }

 private:
  BackwardBlock<Storage> Block(int64_t kv_len, const std::byte* bytes = nullptr) const {
    return {kv_len, shape_.kv_heads, shape_.head_dim, bytes};
  }
  GradientBlock Gradient(int64_t kv_len, const std::byte* bytes) const {
    return {shape_.batch, shape_.kv_heads, kv_len, shape_.head_dim, bytes};
  }

  int64_t HeadDimPanels() const { return (head_dim_ + kPanel - 1) / kPanel; }

  Workspace<Operand> Lay(Arena& arena) const {
    const int64_t tile_rows = KeyTileRows(head_dim_);
    Workspace<Operand> work;
    work.keys_transposed = arena.Take<Operand>(head_dim_ * tile_rows);
    work.dk = arena.Take<float>(tile_rows * padded_head_dim_);
    work.dv = arena.Take<float>(tile_rows * padded_head_dim_);
    for (QueryOperands<Operand>* operands : {&work.query, &work.d_output}) {
      for (Operand*& panel : operands->transposed) panel = arena.Take<Operand>(depth_ * kPanel);
      operands->rows = arena.Take<Operand>(HeadDimPanels() * kQueryBlock * kPanel);
    }
    work.scores = arena.Take<float>(kStepRows * kPanel);
    work.dp = arena.Take<float>(kStepRows * kPanel);
    work.p = arena.Take<Operand>(kStepRows * kQueryBlock);
    work.ds = arena.Take<Operand>(tile_rows * kQueryBlock);
    work.packed_ds = work.ds;
    if constexpr (kRowGroup < Operand >> 1) {
      work.packed_ds = arena.Take<Operand>(tile_rows * kQueryBlock);
    }
    work.logsumexp = arena.Take<float>(kQueryBlock);
    work.delta = arena.Take<float>(kQueryBlock);
    for (ColumnRange*& ranges : work.visible) ranges = arena.Take<ColumnRange>(tile_rows);
    if constexpr (kWidens<Storage, Operand>) {
      work.wide_queries = arena.Take<Operand>(kQueryBlock * head_dim_);
      work.wide_keys = arena.Take<Operand>(tile_rows * head_dim_);
      work.wide_values = arena.Take<Operand>(tile_rows * head_dim_);
    }
    return work;
  }

  // logsumexp to base 2 and delta of one query block of one batch entry.
  void PrepareRows(int64_t index) {
    const auto blocks = static_cast<int64_t>(query_blocks_.size());
    const int64_t batch = index / blocks;
    const RowBlock& rows = query_blocks_[index % blocks];
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const int64_t statistic = (batch * shape_.heads + head) * q_len_ + rows.begin;
      for (int64_t row = 0; row < rows.count(); ++row) {
        const float logsumexp = *saved_.logsumexp.at<float>(batch, head, rows.begin + row);
        // A row that sees nothing has p = 2^-inf = 0 whatever its scores.
        logsumexp_.as<float>()[statistic + row] =
            logsumexp == -kInfinity
                ? kInfinity
                : static_cast<float>(static_cast<double>(logsumexp) * std::numbers::log2e);
        const Storage* d_output = saved_.output_gradient.at<Storage>(batch, rows.begin + row, head);
        DispatchDType(saved_.output.dtype, [&]<class T>(T) {
          const T* output = saved_.output.at<T>(batch, rows.begin + row, head);
          double sum = 0;
          for (int64_t i = 0; i < head_dim_; ++i) {
            sum += static_cast<double>(static_cast<float>(d_output[i])) *
                   static_cast<double>(static_cast<float>(output[i]));
          }
          delta_.as<float>()[statistic + row] = static_cast<float>(sum);
        });
      }
    }
  }

  void PackRow(const Storage* from, Rows<Storage> row) const {
    auto* to = const_cast<Storage*>(row.data);
    std::copy_n(from, head_dim_, to);
    std::fill(to + head_dim_, to + row.stride, Storage{});
  }

  void WriteRow(const float* from, const TensorView& view, int64_t batch, int64_t row,
                int64_t head) const {
    DispatchDType(view.dtype, [&]<class T>(T) {
      T* to = view.at<T>(batch, row, head);
      for (int64_t i = 0; i < head_dim_; ++i) to[i] = T(from[i]);
    });
  }

  // Where each thread's items begin in the sequence (batch, kv_head, tile), and its end: by visible
  // pairs. A function of the shapes alone, so that sums over threads repeat to the bit.
  std::vector<int64_t> SplitByWork(const std::vector<RowBlock>& tiles) const {
    std::vector<double> before{0};  // work of a head group before each tile
    for (const RowBlock& tile : tiles) {
      const int64_t visible = CountVisible(mask_, query_positions_, {tile.positions});
      before.push_back(before.back() + static_cast<double>(visible));
    }
    const auto tile_count = static_cast<int64_t>(tiles.size());
    const int64_t groups = tile_count == 0 ? 0 : shape_.batch * shape_.kv_heads;
    const int threads = context_.team.size();
    std::vector<int64_t> bounds(threads + 1, groups * tile_count);
    bounds[0] = 0;
    const double total = before.back() * static_cast<double>(groups);
    for (int thread = 1; thread < threads && total > 0; ++thread) {
      const double goal = total * thread / threads;
      const auto group = std::min(groups - 1, static_cast<int64_t>(goal / before.back()));
      const double rest = goal - static_cast<double>(group) * before.back();
      int64_t tile = 0;
      while (tile < tile_count && (before[tile] + before[tile + 1]) / 2 < rest) ++tile;
      bounds[thread] = std::max(bounds[thread - 1], group * tile_count + tile);
    }
    return bounds;
  }

  void AttendItem(const BackwardBlock<Storage>& layout, const GradientBlock& sums,
                  const RowBlock& tile, int64_t group, int thread, bool shared,
                  ProgressCounter& progress) {
    const int64_t batch = group / shape_.kv_heads;
    const int64_t kv_head = group % shape_.kv_heads;
    const int64_t heads = shape_.heads / shape_.kv_heads;
    Arena arena(workspaces_[thread].data());
    Workspace<Operand> work = Lay(arena);
    bool started = false;
    Rows<Operand> keys;
    Rows<Operand> values;
    for (int64_t head = kv_head * heads; head < (kv_head + 1) * heads; ++head) {
      for (const RowBlock& queries : query_blocks_) {
        if (Classify(mask_, queries.positions, tile.positions) == TileKind::kEmpty) continue;
        if (!started) {
          started = true;
          keys = AsOperand(layout.Keys(batch, kv_head, tile.begin), tile.count(), head_dim_,
                           work.wide_keys);
          values = AsOperand(layout.Values(batch, kv_head, tile.begin), tile.count(), head_dim_,
                             work.wide_values);
          StartTile(keys, tile, work);
        }
        LoadQueries(batch, head, queries, work);
        AttendTile(keys, values, tile, queries, batch * shape_.heads + head, thread, shared, work);
        progress.Worked(5 * tile.count() * queries.count() * head_dim_);
      }
    }
    if (!started) return;
    for (int64_t row = 0; row < tile.count(); ++row) {
      auto* dk = const_cast<float*>(sums.Keys(batch, kv_head, tile.begin + row));
      auto* dv = const_cast<float*>(sums.Values(batch, kv_head, tile.begin + row));
      const auto scale = static_cast<float>(scale_);
      for (int64_t i = 0; i < head_dim_; ++i) {
        dk[i] += scale * work.dk[row * padded_head_dim_ + i];
        dv[i] += work.dv[row * padded_head_dim_ + i];
      }
    }
  }

  void StartTile(Rows<Operand> keys, const RowBlock& tile, Workspace<Operand>& work) const {
    const int64_t stride = KeyTileRows(head_dim_);
    Transpose(keys.data, keys.stride, tile.count(), head_dim_, work.keys_transposed, stride);
    if (tile.count() % kRowGroup<Operand> != 0) {
      for (int64_t i = 0; i < head_dim_; ++i) {
        work.keys_transposed[i * stride + tile.count()] = Operand{};
      }
    }
    std::fill_n(work.dk, tile.count() * padded_head_dim_, 0.0f);
    std::fill_n(work.dv, tile.count() * padded_head_dim_, 0.0f);
  }

  void LoadQueries(int64_t batch, int64_t head, const RowBlock& queries,
                   Workspace<Operand>& work) const {
    const auto count = static_cast<int>(queries.count());
    const auto load = [&](const ConstTensorView& view, QueryOperands<Operand>& to) {
      const Rows<Operand> rows = AsOperand(HeadRows<Storage>(view, batch, queries.begin, head),
                                           count, head_dim_, work.wide_queries);
      for (int p = 0; p * kPanel < count; ++p) {
        kernels_.pack_transposed(rows.data + p * kPanel * rows.stride, rows.stride,
                                 std::min(kPanel, count - p * kPanel), head_dim_, to.transposed[p]);
      }
      kernels_.pack_rows(rows.data, rows.stride, count, head_dim_, kQueryBlock * kPanel, to.rows);
    };
    load(saved_.query, work.query);
    load(saved_.output_gradient, work.d_output);
    const int64_t statistic = (batch * shape_.heads + head) * q_len_ + queries.begin;
    std::copy_n(logsumexp_.as<float>() + statistic, count, work.logsumexp);
    std::copy_n(delta_.as<float>() + statistic, count, work.delta);
    std::fill(work.logsumexp + count, work.logsumexp + kQueryBlock, kInfinity);
    std::fill(work.delta + count, work.delta + kQueryBlock, 0.0f);
  }

  PanelView See(const RowBlock& queries, int panel, const RowBlock& tile,
                Workspace<Operand>& work) const {
    PanelView view;
    view.queries = Part(queries, panel * kPanel, kPanel);
    switch (Classify(mask_, view.queries.positions, tile.positions)) {
      case TileKind::kEmpty:
        break;
      case TileKind::kFull:
        view.rows = {0, static_cast<int>(tile.count())};
        break;
      case TileKind::kPartial:
        view.rows = FindVisible(mask_, view.queries.positions, tile.positions, work.visible[panel]);
        view.rows.begin -= view.rows.begin % kRowGroup<Operand>;
        view.visible = work.visible[panel];
        break;
    }
    return view;
  }

  void AttendTile(Rows<Operand> keys, Rows<Operand> values, const RowBlock& tile,
                  const RowBlock& queries, int64_t batch_head, int thread, bool shared,
                  Workspace<Operand>& work) {
    PanelView panels[kQueryPanels];
    const int panel_count = queries.count() > kPanel ? 2 : 1;
    for (int p = 0; p < panel_count; ++p) panels[p] = See(queries, p, tile, work);
    for (int row = 0; row < tile.count(); row += kStepRows) {
      const int end = std::min<int>(row + kStepRows, static_cast<int>(tile.count()));
      int first = kQueryPanels;  // panels that see some of these rows
      int last = 0;
      for (int p = 0; p < panel_count; ++p) {
        if (panels[p].rows.begin >= end || panels[p].rows.end <= row) continue;
        first = std::min(first, p);
        last = p + 1;
      }
      if (first >= last) continue;
      for (int p = first; p < last; ++p) {
        MakeScoreGradients(keys, values, panels[p], p, {row, end}, work);
      }
      const auto queries_end =
          static_cast<int>(std::min<int64_t>(queries.count(), int64_t{last} * kPanel));
      AddKeyGradients(row, end, first * kPanel, queries_end, work);
    }
    const int64_t stride = KeyTileRows(head_dim_);
    for (int p = 0; p < panel_count; ++p) {
      const VisibleRows rows = panels[p].rows;
      if (rows.begin >= rows.end) continue;
      const int64_t begin = panels[p].queries.begin;
      const QueryGradient::Panel dq =
          shared ? dq_.Private(thread, batch_head, begin) : dq_.Sum(batch_head, begin);
      kernels_.product(work.keys_transposed + rows.begin, stride,
                       work.packed_ds + rows.begin * kQueryBlock + p * kPanel * kRowGroup<Operand>,
                       kQueryBlock, head_dim_, static_cast<int>(panels[p].queries.count()),
                       static_cast<int>(RoundUp(rows.end - rows.begin, kRowGroup<Operand>)),
                       dq.data, dq.stride, true);
    }
  }

  // P and dS of the key rows [step.begin, step.end) of one panel, zero in rows that it does not
  // see.
  void MakeScoreGradients(Rows<Operand> keys, Rows<Operand> values, const PanelView& panel, int p,
                          VisibleRows step, Workspace<Operand>& work) const {
    const int begin = std::max(step.begin, panel.rows.begin);
    const int end = std::max(begin, std::min(step.end, panel.rows.end));
    Operand* p_step = work.p + p * kPanel;
    Operand* ds_tile = work.ds + p * kPanel;
    for (int row = step.begin; row < step.end; ++row) {
      if (row >= begin && row < end) continue;
      std::fill_n(p_step + (row - step.begin) * kQueryBlock, kPanel, Operand{});
      std::fill_n(ds_tile + row * kQueryBlock, kPanel, Operand{});
    }
    if (begin == end) return;
    const ScoreTile scores{.scores = work.scores,
                           .rows = end - begin,
                           .columns = static_cast<int>(panel.queries.count()),
                           .scale = scale_base2_,
                           .visible = panel.visible == nullptr ? nullptr : panel.visible + begin};
    kernels_.product(keys.data + begin * keys.stride, keys.stride, work.query.transposed[p], kPanel,
                     scores.rows, scores.columns, depth_, work.scores, kPanel, false);
    kernels_.product(values.data + begin * values.stride, values.stride,
                     work.d_output.transposed[p], kPanel, scores.rows, scores.columns, depth_,
                     work.dp, kPanel, false);
    kernels_.softmax_gradient(
        scores, work.dp, work.logsumexp + p * kPanel, work.delta + p * kPanel,
        p_step + (begin - step.begin) * kQueryBlock, ds_tile + begin * kQueryBlock,
        work.packed_ds + begin * kQueryBlock + p * kPanel * kRowGroup<Operand>, kQueryBlock);
  }

  // dV += P^T dO and dK += dS^T Q for key rows [begin, end) and queries [first, last) of the block.
  void AddKeyGradients(int begin, int end, int first, int last, Workspace<Operand>& work) const {
    const auto depth = static_cast<int>(RoundUp(last - first, kRowGroup<Operand>));
    for (int64_t panel = 0; panel < HeadDimPanels(); ++panel) {
      const int64_t column = panel * kPanel;
      const auto columns = static_cast<int>(std::min<int64_t>(kPanel, head_dim_ - column));
      const int64_t right = (panel * kQueryBlock + first) * kPanel;
      kernels_.product(work.p + first, kQueryBlock, work.d_output.rows + right, kPanel, end - begin,
                       columns, depth, work.dv + begin * padded_head_dim_ + column,
                       padded_head_dim_, true);
      kernels_.product(work.ds + begin * kQueryBlock + first, kQueryBlock, work.query.rows + right,
                       kPanel, end - begin, columns, depth,
                       work.dk + begin * padded_head_dim_ + column, padded_head_dim_, true);
    }
  }

  Context& context_;
  const TileKernels<Operand>& kernels_;
  const AttentionShape shape_;
  const Mask mask_;
  const double scale_;
  const float scale_base2_;
  const int head_dim_;
  const int depth_;  // head_dim as products take it
  const int64_t padded_head_dim_;
  const AttentionSaved saved_;
  const Positions query_positions_;
  const int64_t q_len_;
  const std::vector<RowBlock> query_blocks_;
  QueryGradient dq_;
  Buffer logsumexp_;  // [batch, heads, q_len], base 2; +inf for rows that see nothing
  Buffer delta_;      // [batch, heads, q_len]
  std::vector<Buffer> workspaces_;
};

}  // namespace

std::unique_ptr<ShardAttentionBackward> MakeShardAttentionBackward(
    Context& context, const AttentionShape& shape, const AttentionOptions& options,
    const AttentionSaved& saved, const Positions& query_positions) {
  CheckAttentionShape(shape);
  const int64_t q_len = Count(query_positions);
  CheckRows("query", saved.query, shape, q_len, shape.heads);
  CheckRows("output", saved.output, shape, q_len, shape.heads);
  CheckRows("output gradient", saved.output_gradient, shape, q_len, shape.heads);
  CheckDType("query", saved.query, shape.dtype);
  CheckDType("output gradient", saved.output_gradient, shape.dtype);
  CheckLogSumExp(saved.logsumexp, shape, q_len);
  if (shape.dtype == DType::kF32) {
    return std::make_unique<TiledBackward<float, float>>(context, shape, options, saved,
                                                         query_positions, FloatTileKernels());
  }
  if (const TileKernels<bf16>* native = NativeBf16TileKernels()) {
    return std::make_unique<TiledBackward<bf16, bf16>>(context, shape, options, saved,
                                                       query_positions, *native);
  }
  return std::make_unique<TiledBackward<bf16, float>>(context, shape, options, saved,
                                                      query_positions, FloatTileKernels());
}

}  // namespace ringwise
