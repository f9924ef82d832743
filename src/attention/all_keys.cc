#include "attention/all_keys.h"

#include <algorithm>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/forward_order.h"
#include "attention/forward_team.h"
#include "attention/row_finisher.h"
#include "attention/tiling.h"

namespace ringwise {
namespace {

// Pairs that are attended at once: packed they may stay in the last cache until they are read, and
// every thread has several query blocks.
int64_t PairsAtOnce(int64_t pairs, int64_t pair_bytes, int64_t items, int threads) {
  constexpr int64_t kBytes = int64_t{8} << 20;
  constexpr int64_t kItemsAThread = 16;
  const int64_t items_of_pair = std::max<int64_t>(1, items / std::max<int64_t>(1, pairs));
  const int64_t to_fit = kBytes / std::max<int64_t>(1, pair_bytes);
  const int64_t to_deal = (kItemsAThread * threads + items_of_pair - 1) / items_of_pair;
  return std::clamp<int64_t>(std::max(to_fit, to_deal), 1, std::max<int64_t>(1, pairs));
}

// The state of one query block's rows, on one thread.
class BlockState {
 public:
  BlockState(Context& context, int64_t rows, int64_t value_dim)
      : rows_(rows),
        value_dim_(value_dim),
        memory_(context.meter, MemoryCategory::kWorkspace,
                static_cast<size_t>(rows * (value_dim + 3)) * sizeof(float)) {}

  // Of `rows` rows that have seen nothing.
  PartialAttention Start(int64_t rows) {
    float* output = memory_.as<float>();
    float* row_max = output + rows_ * value_dim_;
    float* row_sum = row_max + rows_;
    std::fill_n(row_sum, rows, 0.0f);
    return {output, row_max, row_sum, rows, value_dim_, row_sum + rows_};
  }

 private:
  int64_t rows_, value_dim_;
  Buffer memory_;
};

template <class Storage>
AttentionStats AttendPairs(Context& context, const AttentionShape& shape,
                           const AttentionOptions& options, const AttentionInputs& inputs,
                           const Positions& query_positions, const Positions& key_positions,
                           const AttentionOutputs& outputs) {
  ForwardTeam<Storage> team(context, shape, options, inputs.query, query_positions);
  const std::vector<RowBlock>& blocks = team.query_blocks();
  const ForwardOrder order(options.mask, shape, blocks, key_positions);
  const RowFinisher finisher(options, outputs);
  std::vector<BlockState> states;
  states.reserve(static_cast<size_t>(context.team.size()));
  for (int thread = 0; thread < context.team.size(); ++thread) {
    states.emplace_back(context, team.problem().query_block, shape.value_dim);
  }
  const int64_t kv_len = Count(key_positions);
  const int64_t at_once =
      PairsAtOnce(Pairs(shape), team.BlockBytes(1, kv_len),
                  shape.batch * shape.heads * std::ssize(blocks), context.team.size());
  const Buffer block(context.meter, MemoryCategory::kRingBuffers,
                     static_cast<size_t>(team.BlockBytes(at_once, kv_len)));
  for (int64_t first = 0; first < Pairs(shape); first += at_once) {
    const Range pairs{first, std::min(first + at_once, Pairs(shape))};
    const auto bytes =
        block.bytes().first(static_cast<size_t>(team.BlockBytes(pairs.size(), kv_len)));
    team.Pack(inputs.key, inputs.value, key_positions, pairs, bytes);
    team.Attend(bytes, pairs, key_positions, order.Items(pairs, 0), {},
                [&](const ForwardItem& item, int thread, const auto& attend) {
                  const RowBlock& rows = blocks[item.query_block];
                  const PartialAttention state = states[thread].Start(rows.count());
                  attend(state);
                  finisher.Finish(state, item.batch, item.head, rows.begin);
                });
  }
  return team.stats();
}

}  // namespace

AttentionStats AttendAllKeys(Context& context, const AttentionShape& shape,
                             const AttentionOptions& options, const AttentionInputs& inputs,
                             const Positions& query_positions, const Positions& key_positions,
                             const AttentionOutputs& outputs) {
  CheckForward(shape, inputs.query, Count(query_positions), outputs);
  CheckKeyValue(inputs.key, inputs.value, shape, Count(key_positions));
  const auto attend = shape.dtype == DType::kF32 ? &AttendPairs<float> : &AttendPairs<bf16>;
  return attend(context, shape, options, inputs, query_positions, key_positions, outputs);
}

}  // namespace ringwise
