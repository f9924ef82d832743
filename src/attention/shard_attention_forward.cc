#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/forward_block.h"
#include "attention/forward_walk.h"
#include "attention/operand_choice.h"
#include "attention/partial_attention.h"
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
               ConstTensorView query, const Positions& query_positions)
      : context_(context),
        problem_{shape, options.mask, ScaleToBase2(shape, options), query},
        q_len_(Count(query_positions)),
        query_blocks_(CutIntoBlocks(query_positions, kForwardQueryBlock, false)) {
    const int64_t rows = shape.batch * shape.heads * q_len_;
    output_ =
        Buffer(context.meter, MemoryCategory::kActivations, rows * shape.head_dim * sizeof(float));
    row_max_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    row_weight_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    row_sum_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    if (rows > 0) std::memset(row_sum_.data(), 0, row_sum_.size());
    workspaces_.resize(context.team.size());
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
    const int64_t chunks = (kv_len + kKeyChunk - 1) / kKeyChunk;
    context_.team.ForEach(shape.batch * shape.kv_heads * chunks, [&](int64_t index, int) {
      const int64_t begin = index % chunks * kKeyChunk;
      const int64_t head = index / chunks % shape.kv_heads;
      const int64_t batch = index / chunks / shape.kv_heads;
      PackChunk(layout, key, value, batch, head, begin, std::min(kKeyChunk, kv_len - begin));
    });
  }

  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              const ProgressHook& progress) override {
    assert(static_cast<int64_t>(block.size()) == BlockBytes(Count(key_positions)));
    WithTileKernels<Storage>(
        problem_.shape, q_len_, Count(key_positions),
        [&](const auto& kernels) { AttendWith(kernels, block, key_positions, progress); });
  }

  void Finish(const AttentionOutputs& outputs) override {
    const auto& [output, logsumexp] = outputs;
    CheckQueryRows("output", output, problem_.shape, q_len_, problem_.shape.value_dim);
    CheckLogSumExp("logsumexp", logsumexp, problem_.shape, q_len_);
    const auto blocks = static_cast<int64_t>(query_blocks_.size());
    context_.team.ForEach(problem_.shape.batch * blocks, [&](int64_t index, int) {
      DispatchDType(outputs.output.dtype, [&]<class T>(T) {
        FinishRows<T>(index / blocks, query_blocks_[index % blocks], outputs.output,
                      outputs.logsumexp);
      });
    });
  }

  AttentionStats stats() const override { return {}; }

 private:
  template <class Element>
  ForwardBlock<Element> Block(int64_t kv_len, BytesOf<Element>* bytes = nullptr) const {
    return {kv_len, problem_.shape.kv_heads, problem_.shape.head_dim, bytes};
  }

  void PackChunk(const ForwardBlock<Storage>& layout, const ConstTensorView& key,
                 const ConstTensorView& value, int64_t batch, int64_t head, int64_t begin,
                 int64_t count) const {
    const int64_t head_dim = problem_.shape.head_dim;
    const Rows<const Storage> keys = HeadRows<const Storage>(key, batch, begin, head);
    const Rows<Storage> packed_keys = layout.Keys(batch, head, begin);
    Storage* to = packed_keys.data;
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(keys.data + row * keys.stride, head_dim, to);
      std::fill(to + head_dim, to + packed_keys.stride, Storage{});
      to += packed_keys.stride;
    }
    const Rows<const Storage> values = HeadRows<const Storage>(value, batch, begin, head);
    const Rows<Storage> packed_values = layout.Values(batch, head, begin);
    to = packed_values.data;
    Transpose(values.data, values.stride, count, head_dim, to, packed_values.stride);
    for (int64_t i = 0; count < packed_values.stride && i < head_dim; ++i) {
      to[i * packed_values.stride + count] = Storage{};
    }
  }

  // Query blocks by falling number of visible keys, so that the last items to start are short.
  std::vector<int64_t> LongestFirst(const Positions& key_positions) const {
    std::vector<std::pair<int64_t, int64_t>> work;
    for (size_t i = 0; i < query_blocks_.size(); ++i) {
      const int64_t visible =
          CountVisible({problem_.mask}, {query_blocks_[i].positions}, key_positions);
      if (visible > 0) work.emplace_back(-visible, static_cast<int64_t>(i));
    }
    std::sort(work.begin(), work.end());
    std::vector<int64_t> order;
    order.reserve(work.size());
    for (const auto& [visible, index] : work) order.push_back(index);
    return order;
  }

  template <class Operand>
  void AttendWith(const TileKernels<Operand>& kernels, std::span<const std::byte> block,
                  const Positions& key_positions, const ProgressHook& progress) {
    using Walk = ForwardWalk<Storage, Operand>;
    const ForwardBlock<const Storage> layout =
        Block<const Storage>(Count(key_positions), block.data());
    const std::vector<RowBlock> key_tiles = CutIntoBlocks(key_positions, kKeyChunk, true);
    const std::vector<int64_t> order = LongestFirst(key_positions);
    const int64_t heads = problem_.shape.heads;
    const int64_t batch_heads = problem_.shape.batch * heads;
    for (Buffer& workspace : workspaces_) {
      GrowBuffer(context_.meter, Walk::WorkspaceBytes(problem_.shape.head_dim), workspace);
    }
    std::vector<ProgressCounter> counters;
    counters.reserve(static_cast<size_t>(context_.team.size()));
    for (int thread = 0; thread < context_.team.size(); ++thread) {
      counters.emplace_back(progress, thread);
    }
    context_.team.ForEach(static_cast<int64_t>(order.size()) * batch_heads,
                          [&](int64_t index, int thread) {
                            const int64_t batch_head = index % batch_heads;
                            const RowBlock& queries = query_blocks_[order[index / batch_heads]];
                            Walk(problem_, kernels, workspaces_[thread].data())
                                .Attend(layout, key_tiles, batch_head / heads, batch_head % heads,
                                        queries, State(batch_head, queries), counters[thread]);
                          });
  }

  PartialAttention State(int64_t batch_head, const RowBlock& rows) {
    const int64_t row = batch_head * q_len_ + rows.begin;
    return {output_.as<float>() + row * problem_.shape.head_dim,
            row_max_.as<float>() + row,
            row_sum_.as<float>() + row,
            rows.count(),
            problem_.shape.head_dim,
            row_weight_.as<float>() + row};
  }

  template <class T>
  void FinishRows(int64_t batch, const RowBlock& rows, const TensorView& output,
                  const TensorView& logsumexp) {
    const int64_t head_dim = problem_.shape.head_dim;
    for (int64_t head = 0; head < problem_.shape.heads; ++head) {
      const PartialAttention state = State(batch * problem_.shape.heads + head, rows);
      for (int64_t row = 0; row < rows.count(); ++row) {
        const RowResult result =
            Normalise(state.row_max[row], state.row_sum[row], state.row_weight[row]);
        *logsumexp.at<float>(batch, head, rows.begin + row) = result.logsumexp;
        T* to = output.at<T>(batch, rows.begin + row, head);
        if (state.row_sum[row] == 0) {
          std::fill_n(to, head_dim, T(0.0f));
          continue;
        }
        const float* from = state.output + row * head_dim;
        for (int64_t i = 0; i < head_dim; ++i) to[i] = T(result.factor * from[i]);
      }
    }
  }

  Context& context_;
  const ForwardProblem problem_;
  const int64_t q_len_;
  const std::vector<RowBlock> query_blocks_;
  Buffer output_;   // the state, [batch, heads, q_len, head_dim]: see PartialAttention
  Buffer row_max_;  // [batch, heads, q_len]
  Buffer row_sum_;
  Buffer row_weight_;
  std::vector<Buffer> workspaces_;  // of each thread
};

}  // namespace

std::unique_ptr<ShardAttentionForward> MakeShardAttentionForward(Context& context,
                                                                 const AttentionShape& shape,
                                                                 const AttentionOptions& options,
                                                                 ConstTensorView query,
                                                                 const Positions& query_positions) {
  CheckAttentionShape(shape);
  CheckQueryRows("query", query, shape, Count(query_positions), shape.head_dim);
  CheckDType("query", query, shape.dtype);
  if (shape.dtype == DType::kF32) {
    return std::make_unique<TiledForward<float>>(context, shape, options, query, query_positions);
  }
  return std::make_unique<TiledForward<bf16>>(context, shape, options, query, query_positions);
}

}  // namespace ringwise
