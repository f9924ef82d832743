#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/forward_block.h"
#include "attention/forward_walk.h"
#include "attention/key_tiles.h"
#include "attention/operand_choice.h"
#include "attention/partial_attention.h"
#include "attention/score_terms.h"
#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "kernels/grow_buffer.h"
#include "kernels/transpose.h"

// Forward, one device: what a shard keeps between blocks, and how work is dealt to the team. The
// algorithm is in forward_walk.h.
namespace ringwise {
namespace {

template <class Storage>
class TiledForward final : public ShardAttentionForward {
 public:
  TiledForward(Context& context, const AttentionShape& shape, const AttentionOptions& options,
               ConstTensorView query, const Positions& query_positions,
               const AttentionOutputs& outputs)
      : context_(context),
        outputs_(outputs),
        problem_{shape,
                 options.mask,
                 options.dropout,
                 ScoreTerms(shape, options),
                 ScoreTerms(shape, options).none() ? ScaleToBase2(shape, options) : 1.0f,
                 query,
                 ForwardQueryBlock(shape, Count(query_positions), context.team.size())},
        sinks_(options.sinks),
        q_len_(Count(query_positions)),
        query_blocks_(CutIntoBlocks(query_positions, problem_.query_block)) {
    const int64_t rows = shape.batch * shape.heads * q_len_;
    state_ = outputs.output;
    if (state_.dtype != DType::kF32) {
      output_ = Buffer(context.meter, MemoryCategory::kActivations,
                       rows * shape.value_dim * sizeof(float));
      state_ = TensorView(output_.data(), DType::kF32, state_.shape);
    }
    row_max_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    row_weight_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    row_sum_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    if (rows > 0) std::memset(row_sum_.data(), 0, row_sum_.size());
    workspaces_.resize(context.team.size());
    tiles_.resize(context.team.size());
  }

  int64_t BlockBytes(int64_t kv_len) const override {
    return problem_.shape.batch * problem_.shape.kv_heads *
           Block<const Storage>(kv_len).HeadElements() * static_cast<int64_t>(sizeof(Storage));
  }

  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override {
    const AttentionShape& shape = problem_.shape;
    const int64_t kv_len = Count(positions);
    CheckKeyValue(key, value, shape, kv_len);
    assert(static_cast<int64_t>(block.size()) == BlockBytes(kv_len));
    const ForwardBlock<Storage> layout = Block<Storage>(kv_len, block.data());
    const std::vector<RowBlock> tiles = CutIntoBlocks(positions, kKeyChunk);
    const auto count = static_cast<int64_t>(tiles.size());
    context_.team.ForEach(shape.batch * shape.kv_heads * count, [&](int64_t index, int) {
      const int64_t head = index / count % shape.kv_heads;
      const int64_t batch = index / count / shape.kv_heads;
      PackTile(layout, key, value, batch, head, tiles[index % count]);
    });
  }

  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              const ProgressHook& progress) override {
    assert(static_cast<int64_t>(block.size()) == BlockBytes(Count(key_positions)));
    WithTileKernels<Storage>(
        problem_.shape, q_len_, Count(key_positions),
        [&](const auto& kernels) { AttendWith(kernels, block, key_positions, progress); });
  }

  void Finish() override {
    const auto blocks = static_cast<int64_t>(query_blocks_.size());
    context_.team.ForEach(problem_.shape.batch * blocks, [&](int64_t index, int) {
      DispatchDType(outputs_.output.dtype, [&]<class T>(T) {
        FinishRows<T>(index / blocks, query_blocks_[index % blocks]);
      });
    });
  }

  AttentionStats stats() const override {
    return {std::accumulate(tiles_.begin(), tiles_.end(), int64_t{0}), problem_.query_block,
            kKeyChunk};
  }

 private:
  template <class Element>
  ForwardBlock<Element> Block(int64_t kv_len, BytesOf<Element>* bytes = nullptr) const {
    return {problem_.shape, kv_len, bytes};
  }

  void PackTile(const ForwardBlock<Storage>& layout, const ConstTensorView& key,
                const ConstTensorView& value, int64_t batch, int64_t head,
                const RowBlock& tile) const {
    const int64_t head_dim = problem_.shape.head_dim;
    const int64_t count = tile.count();
    const Rows<const Storage> keys = HeadRows<const Storage>(key, batch, tile.begin, head);
    const Rows<Storage> packed_keys = layout.Keys(batch, head, tile.begin);
    Storage* to = packed_keys.data;
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(keys.data + row * keys.stride, head_dim, to);
      std::fill(to + head_dim, to + packed_keys.stride, Storage{});
      to += packed_keys.stride;
    }
    const Rows<const Storage> values = HeadRows<const Storage>(value, batch, tile.begin, head);
    const Rows<Storage> packed_values = layout.Values(batch, head, tile);
    Transpose(values.data, values.stride, count, problem_.shape.value_dim, packed_values.data,
              packed_values.stride);
  }

  // What one item of work is: a query block of one head.
  struct Item {
    int64_t query_block, batch, head;
  };
  // The items with visible keys by falling number of them, so that the last to start are short.
  // Heads whose masks agree are counted once.
  class Order {
   public:
    Order(const Mask& mask, const AttentionShape& shape, const std::vector<RowBlock>& query_blocks,
          const Positions& keys) {
      const auto planes = DistinctPlanes(mask, shape.batch, shape.heads);
      for (const auto& [plane, count] : planes) {
        for (size_t block = 0; block < query_blocks.size(); ++block) {
          const int64_t visible = CountVisible(plane, {query_blocks[block].positions}, keys);
          if (visible == 0) continue;
          work_.push_back({visible, {static_cast<int64_t>(block), plane.batch, plane.head}});
        }
      }
      std::stable_sort(work_.begin(), work_.end(),
                       [](const Work& a, const Work& b) { return a.visible > b.visible; });
      if (planes.empty()) return;
      // A plane stands for all batches, all heads, or both.
      each_ = planes.back().second;
      heads_ = planes.back().first.head + 1 == shape.heads ? 1 : shape.heads;
    }
    int64_t size() const { return static_cast<int64_t>(work_.size()) * each_; }
    Item operator[](int64_t index) const {
      const Item& first = work_[index / each_].first;
      const int64_t member = index % each_;
      return {first.query_block, first.batch + member / heads_, first.head + member % heads_};
    }

   private:
    struct Work {
      int64_t visible;
      Item first;
    };
    std::vector<Work> work_;
    int64_t each_ = 1;   // items of a plane and query block
    int64_t heads_ = 1;  // of them by head
  };

  template <class Operand>
  void AttendWith(const TileKernels<Operand>& kernels, std::span<const std::byte> block,
                  const Positions& key_positions, const ProgressHook& progress) {
    using Walk = ForwardWalk<Storage, Operand>;
    const ForwardBlock<const Storage> layout =
        Block<const Storage>(Count(key_positions), block.data());
    const KeyTiles key_tiles(key_positions, kKeyChunk);
    const Order order(problem_.mask, problem_.shape, query_blocks_, key_positions);
    for (Buffer& workspace : workspaces_) {
      GrowBuffer(context_.meter, InHugePages(Walk::WorkspaceBytes(problem_)), workspace);
    }
    std::vector<ProgressCounter> counters;
    counters.reserve(static_cast<size_t>(context_.team.size()));
    for (int thread = 0; thread < context_.team.size(); ++thread) {
      counters.emplace_back(progress, thread);
    }
    context_.team.ForEach(order.size(), [&](int64_t index, int thread) {
      const Item item = order[index];
      const RowBlock& queries = query_blocks_[item.query_block];
      Walk walk(problem_, kernels, workspaces_[thread].data());
      tiles_[thread] += walk.Attend(layout, key_tiles, item.batch, item.head, queries,
                                    State(item.batch, item.head, queries), counters[thread]);
    });
  }

  PartialAttention State(int64_t batch, int64_t head, const RowBlock& rows) {
    const int64_t row = (batch * problem_.shape.heads + head) * q_len_ + rows.begin;
    return {state_.at<float>(batch, rows.begin, head),
            row_max_.as<float>() + row,
            row_sum_.as<float>() + row,
            rows.count(),
            problem_.shape.value_dim,
            row_weight_.as<float>() + row,
            state_.strides[1]};
  }

  template <class T>
  void FinishRows(int64_t batch, const RowBlock& rows) {
    const int64_t value_dim = problem_.shape.value_dim;
    const auto kept_factor = static_cast<float>(1 / (1 - problem_.dropout.probability));
    for (int64_t head = 0; head < problem_.shape.heads; ++head) {
      const float sink =
          sinks_ ? *sinks_->at<float>(head) : -std::numeric_limits<float>::infinity();
      const PartialAttention state = State(batch, head, rows);
      for (int64_t row = 0; row < rows.count(); ++row) {
        const RowResult result =
            Normalise(state.row_max[row], state.row_sum[row], state.row_weight[row], sink);
        *outputs_.logsumexp.at<float>(batch, head, rows.begin + row) = result.logsumexp;
        T* to = outputs_.output.at<T>(batch, rows.begin + row, head);
        if (state.row_sum[row] == 0) {
          std::fill_n(to, value_dim, T(0.0f));
          continue;
        }
        const float factor = result.factor * kept_factor;
        const float* from = state.Output(row);
        for (int64_t i = 0; i < value_dim; ++i) to[i] = T(factor * from[i]);
      }
    }
  }

  Context& context_;
  const AttentionOutputs outputs_;
  const ForwardProblem problem_;
  const std::optional<ConstTensorView> sinks_;
  const int64_t q_len_;
  const std::vector<RowBlock> query_blocks_;
  // The state of every row and head, see PartialAttention: output [batch, q_len, heads, value_dim],
  // in the output itself or in `output_`.
  TensorView state_;
  Buffer output_;
  Buffer row_max_;  // [batch, heads, q_len]
  Buffer row_sum_;
  Buffer row_weight_;
  std::vector<Buffer> workspaces_;  // of each thread
  std::vector<int64_t> tiles_;      // computed by each thread
};

}  // namespace

std::unique_ptr<ShardAttentionForward> MakeShardAttentionForward(
    Context& context, const AttentionShape& shape, const AttentionOptions& options,
    ConstTensorView query, const Positions& query_positions, const AttentionOutputs& outputs) {
  CheckAttentionShape(shape);
  const int64_t q_len = Count(query_positions);
  CheckQueryRows("query", query, shape, q_len, shape.head_dim);
  CheckDType("query", query, shape.dtype);
  CheckQueryRows("output", outputs.output, shape, q_len, shape.value_dim);
  CheckLogSumExp("logsumexp", outputs.logsumexp, shape, q_len);
  if (shape.dtype == DType::kF32) {
    return std::make_unique<TiledForward<float>>(context, shape, options, query, query_positions,
                                                 outputs);
  }
  return std::make_unique<TiledForward<bf16>>(context, shape, options, query, query_positions,
                                              outputs);
}

}  // namespace ringwise
