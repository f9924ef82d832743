#include <cstring>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/forward_order.h"
#include "attention/forward_team.h"
#include "attention/partial_attention.h"
#include "attention/row_finisher.h"
#include "attention/shard_attention.h"
#include "attention/tiling.h"

// Forward, one device: what a shard keeps between blocks. How work is dealt to the team is in
// forward_team.h, the algorithm in forward_walk.h.
namespace ringwise {
namespace {

template <class Storage>
class TiledForward final : public ShardAttentionForward {
 public:
  TiledForward(Context& context, const AttentionShape& shape, const AttentionOptions& options,
               ConstTensorView query, const Positions& query_positions,
               const AttentionOutputs& outputs)
      : context_(context),
        q_len_(Count(query_positions)),
        team_(context, shape, options, query, query_positions),
        finisher_(options, outputs),
        state_(outputs.output) {
    const int64_t rows = shape.batch * shape.heads * q_len_;
    if (state_.dtype != DType::kF32) {
      output_ = Buffer(context.meter, MemoryCategory::kActivations,
                       rows * shape.value_dim * sizeof(float));
      state_ = TensorView(output_.data(), DType::kF32, state_.shape);
    }
    row_max_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    row_weight_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    row_sum_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    if (rows > 0) std::memset(row_sum_.data(), 0, row_sum_.size());
  }

  int64_t BlockBytes(int64_t kv_len) const override {
    return team_.BlockBytes(Pairs(shape()), kv_len);
  }

  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override {
    team_.Pack(key, value, positions, {0, Pairs(shape())}, block);
  }

  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              const ProgressHook& progress) override {
    const Range all{0, Pairs(shape())};
    const ForwardOrder order(team_.problem().mask, shape(), team_.query_blocks(), key_positions);
    team_.Attend(block, all, key_positions, order.Items(all, 1), progress,
                 [&](const ForwardItem& item, int, const auto& attend) {
                   attend(State(item.batch, item.head, team_.query_blocks()[item.query_block]));
                 });
  }

  void Finish() override {
    const auto blocks = static_cast<int64_t>(team_.query_blocks().size());
    context_.team.ForEach(shape().batch * blocks, [&](int64_t index, int) {
      const RowBlock& rows = team_.query_blocks()[index % blocks];
      const int64_t batch = index / blocks;
      for (int64_t head = 0; head < shape().heads; ++head) {
        finisher_.Finish(State(batch, head, rows), batch, head, rows.begin);
      }
    });
  }

  AttentionStats stats() const override { return team_.stats(); }

 private:
  const AttentionShape& shape() const { return team_.problem().shape; }

  PartialAttention State(int64_t batch, int64_t head, const RowBlock& rows) {
    const int64_t row = (batch * shape().heads + head) * q_len_ + rows.begin;
    return {state_.at<float>(batch, rows.begin, head),
            row_max_.as<float>() + row,
            row_sum_.as<float>() + row,
            rows.count(),
            shape().value_dim,
            row_weight_.as<float>() + row,
            state_.strides[1]};
  }

  Context& context_;
  const int64_t q_len_;
  ForwardTeam<Storage> team_;
  const RowFinisher finisher_;
  // The state of every row and head, see PartialAttention: output [batch, q_len, heads, value_dim],
  // in the output itself or in `output_`.
  TensorView state_;
  Buffer output_;
  Buffer row_max_;  // [batch, heads, q_len]
  Buffer row_sum_;
  Buffer row_weight_;
};

}  // namespace

std::unique_ptr<ShardAttentionForward> MakeShardAttentionForward(
    Context& context, const AttentionShape& shape, const AttentionOptions& options,
    ConstTensorView query, const Positions& query_positions, const AttentionOutputs& outputs) {
  CheckForward(shape, query, Count(query_positions), outputs);
  if (shape.dtype == DType::kF32) {
    return std::make_unique<TiledForward<float>>(context, shape, options, query, query_positions,
                                                 outputs);
  }
  return std::make_unique<TiledForward<bf16>>(context, shape, options, query, query_positions,
                                              outputs);
}

}  // namespace ringwise
