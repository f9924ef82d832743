#pragma once

#include <algorithm>
#include <cassert>
#include <numeric>
#include <span>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/forward_block.h"
#include "attention/forward_order.h"
#include "attention/forward_walk.h"
#include "attention/key_tiles.h"
#include "attention/operand_choice.h"
#include "attention/score_terms.h"
#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "kernels/grow_buffer.h"
#include "kernels/transpose.h"

namespace ringwise {

// Deals the work of forward to the threads of a team, each with a workspace of its own.
template <class Storage>
class ForwardTeam {
 public:
  ForwardTeam(Context& context, const AttentionShape& shape, const AttentionOptions& options,
              ConstTensorView query, const Positions& query_positions)
      : context_(context),
        problem_{shape,
                 options.mask,
                 options.dropout,
                 ScoreTerms(shape, options),
                 ScoreTerms(shape, options).none() ? ScaleToBase2(shape, options) : 1.0f,
                 query,
                 ForwardQueryBlock(shape, Count(query_positions), context.team.size())},
        q_len_(Count(query_positions)),
        query_blocks_(CutIntoBlocks(query_positions, problem_.query_block)),
        workspaces_(context.team.size()),
        tiles_(context.team.size()) {}

  const ForwardProblem& problem() const { return problem_; }
  const std::vector<RowBlock>& query_blocks() const { return query_blocks_; }

  int64_t BlockBytes(int64_t pairs, int64_t kv_len) const {
    const ForwardBlock<const Storage> layout(problem_.shape, 0, kv_len);
    return pairs * layout.PairElements() * static_cast<int64_t>(sizeof(Storage));
  }

  // The block of some pairs of key [batch, kv_len, kv_heads, head_dim] and value.
  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            const Range& pairs, std::span<std::byte> block) {
    const AttentionShape& shape = problem_.shape;
    const int64_t kv_len = Count(positions);
    CheckKeyValue(key, value, shape, kv_len);
    assert(static_cast<int64_t>(block.size()) == BlockBytes(pairs.size(), kv_len));
    const ForwardBlock<Storage> layout(shape, pairs.begin, kv_len, block.data());
    const std::vector<RowBlock> tiles = CutIntoBlocks(positions, kKeyChunk);
    const auto count = static_cast<int64_t>(tiles.size());
    context_.team.ForEach(pairs.size() * count, [&](int64_t index, int) {
      const int64_t pair = pairs.begin + index / count;
      PackTile(layout, key, value, pair / shape.kv_heads, pair % shape.kv_heads,
               tiles[index % count]);
    });
  }

  // Calls visit(item, thread, attend) for every item, on any thread; there attend(state) merges
  // the block of `pairs`, the item's among them, into the rows' state.
  template <class Visit>
  void Attend(std::span<const std::byte> block, const Range& pairs, const Positions& key_positions,
              const std::vector<ForwardItem>& items, const ProgressHook& progress,
              const Visit& visit) {
    assert(static_cast<int64_t>(block.size()) == BlockBytes(pairs.size(), Count(key_positions)));
    const ForwardBlock<const Storage> layout(problem_.shape, pairs.begin, Count(key_positions),
                                             block.data());
    WithTileKernels<Storage>(
        problem_.shape, q_len_, Count(key_positions), [&](const auto& kernels) {
          AttendWith(kernels, layout, KeyTiles(key_positions, kKeyChunk), items, progress, visit);
        });
  }

  AttentionStats stats() const {
    return {std::accumulate(tiles_.begin(), tiles_.end(), int64_t{0}), problem_.query_block,
            kKeyChunk};
  }

 private:
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

  template <class Operand, class Visit>
  void AttendWith(const TileKernels<Operand>& kernels, const ForwardBlock<const Storage>& layout,
                  const KeyTiles& key_tiles, const std::vector<ForwardItem>& items,
                  const ProgressHook& progress, const Visit& visit) {
    using Walk = ForwardWalk<Storage, Operand>;
    for (Buffer& workspace : workspaces_) {
      GrowBuffer(context_.meter, InHugePages(Walk::WorkspaceBytes(problem_)), workspace);
    }
    std::vector<ProgressCounter> counters;
    counters.reserve(static_cast<size_t>(context_.team.size()));
    for (int thread = 0; thread < context_.team.size(); ++thread) {
      counters.emplace_back(progress, thread);
    }
    context_.team.ForEach(std::ssize(items), [&](int64_t index, int thread) {
      const ForwardItem& item = items[index];
      visit(item, thread, [&](const PartialAttention& state) {
        Walk walk(problem_, kernels, workspaces_[thread].data());
        tiles_[thread] += walk.Attend(layout, key_tiles, item.batch, item.head,
                                      query_blocks_[item.query_block], state, counters[thread]);
      });
    });
  }

  Context& context_;
  const ForwardProblem problem_;
  const int64_t q_len_;
  const std::vector<RowBlock> query_blocks_;
  std::vector<Buffer> workspaces_;  // of each thread
  std::vector<int64_t> tiles_;      // computed by each thread
};

}  // namespace ringwise
