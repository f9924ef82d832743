#pragma once

#include <algorithm>
#include <vector>

#include "attention/backward_block.h"
#include "attention/backward_plan.h"
#include "attention/backward_walk.h"
#include "attention/operand_choice.h"
#include "attention/query_gradient.h"
#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "kernels/grow_buffer.h"

namespace ringwise {

// Deals the work of backward to the threads of a team, each with a workspace of its own.
template <class Storage>
class BackwardTeam {
 public:
  explicit BackwardTeam(Context& context) : context_(context), workspaces_(context.team.size()) {}

  // The problem's queries with all `rows` of keys: sums += their dk, dv; dq += its part.
  void Attend(const BackwardProblem& problem, const KeyValueRows& rows,
              const Positions& key_positions, const KeyValueSums& sums, QueryGradient& dq,
              const ProgressHook& progress) {
    WithTileKernels<Storage>(
        problem.shape, problem.q_len, Count(key_positions), [&](const auto& kernels) {
          AttendWith(kernels, problem, rows, key_positions, sums, dq, progress);
        });
  }

  int64_t computed_tiles() const { return computed_tiles_; }

 private:
  template <class Operand>
  void AttendWith(const TileKernels<Operand>& kernels, const BackwardProblem& problem,
                  const KeyValueRows& rows, const Positions& key_positions,
                  const KeyValueSums& sums, QueryGradient& dq, const ProgressHook& progress) {
    using Walk = BackwardWalk<Storage, Operand>;
    const AttentionShape& shape = problem.shape;
    const std::vector<RowBlock> tiles = CutIntoBlocks(key_positions, problem.tile_rows);
    const BackwardPlan plan(context_.team, problem.mask, shape, *problem.hulls,
                            problem.query_blocks, tiles);
    computed_tiles_ += plan.computed_tiles();
    const auto tile_count = static_cast<int64_t>(tiles.size());
    const int threads = context_.team.size();
    const int64_t at_once = GroupsAtOnce(problem);
    for (int64_t group = 0; group < plan.groups(); group += at_once) {
      const std::vector<int64_t> bounds =
          plan.Deal(threads, group, std::min(group + at_once, plan.groups()));
      for (int thread = 0; thread < threads; ++thread) {
        if (bounds[thread] == bounds[thread + 1]) continue;
        GrowBuffer(context_.meter, Walk::WorkspaceBytes(problem), workspaces_[thread]);
        if (bounds[thread] % tile_count != 0) dq.MakePrivate(thread);
      }
      context_.team.Run([&](int thread) {
        const Range items{bounds[thread], bounds[thread + 1]};
        if (items.size() > 0) {
          const Walk walk(problem, kernels, workspaces_[thread].data());
          ProgressCounter counter(progress, thread);
          AttendItems(items, thread, tile_count, dq, [&](int64_t item, int copy) {
            walk.Attend(rows, sums, tiles[item % tile_count], item / tile_count, dq, copy, counter);
          });
        }
        context_.team.Barrier();
        for (int other = 0; other < threads; ++other) {
          const int64_t first = bounds[other];
          if (first < bounds[other + 1] && first % tile_count != 0) {
            dq.Reduce(other, first / tile_count, threads, thread);
          }
        }
      });
    }
  }

  // Calls attend(item, copy of dq) for the items of one thread. Only the first head group of a
  // thread can have been begun by another one.
  template <class Attend>
  static void AttendItems(const Range& items, int thread, int64_t tile_count, QueryGradient& dq,
                          const Attend& attend) {
    const int64_t shared_group = items.begin % tile_count == 0 ? -1 : items.begin / tile_count;
    if (shared_group >= 0) dq.ClearPrivate(thread);
    for (int64_t item = items.begin; item < items.end; ++item) {
      attend(item, item / tile_count == shared_group ? thread : QueryGradient::kSum);
    }
  }

  // Head groups that are dealt to the team at once. Groups that add to the same elements of the
  // bias's gradient take turns, so that the elements of a key tile belong to one thread at a time
  // and are summed in a fixed order, without copies of a tensor that may be the largest of all. The
  // cost: a turn has no more work to share than the key tiles of its groups, and ends when the last
  // of them does.
  static int64_t GroupsAtOnce(const BackwardProblem& problem) {
    const AttentionShape& shape = problem.shape;
    if (!problem.bias_gradient) return shape.batch * shape.kv_heads;
    const Shape& bias = problem.bias_gradient->shape;
    if (bias[1] == 1 && shape.kv_heads > 1) return 1;
    return bias[0] == 1 ? shape.kv_heads : shape.batch * shape.kv_heads;
  }

  Context& context_;
  std::vector<Buffer> workspaces_;  // of each thread
  int64_t computed_tiles_ = 0;
};

}  // namespace ringwise
