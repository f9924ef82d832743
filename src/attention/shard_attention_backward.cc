#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <vector>

#include "attention/attention_checks.h"
#include "attention/backward_block.h"
#include "attention/backward_plan.h"
#include "attention/backward_walk.h"
#include "attention/operand_choice.h"
#include "attention/query_gradient.h"
#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "kernels/grow_buffer.h"

// Backward, one device: what a shard keeps between blocks, and how work is dealt to the team. The
// algorithm is in backward_walk.h.
namespace ringwise {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class Storage>
class TiledBackward final : public ShardAttentionBackward {
 public:
  TiledBackward(Context& context, const AttentionShape& shape, const AttentionOptions& options,
                ConstTensorView query, const AttentionSaved& saved,
                const Positions& query_positions, const std::optional<TensorView>& bias_gradient)
      : context_(context),
        saved_(saved),
        sinks_(options.sinks),
        problem_{.shape = shape,
                 .mask = options.mask,
                 .scale = Scale(shape, options),
                 .scale_base2 = ScaleToBase2(shape, options),
                 .terms = ScoreTerms(shape, options),
                 .dropout = options.dropout,
                 .bias_gradient = bias_gradient,
                 .query = query,
                 .output_gradient = saved.output_gradient,
                 .q_len = Count(query_positions),
                 .tile_rows = BackwardTileRows(shape, Count(query_positions), context.team.size()),
                 .query_blocks = CutIntoBlocks(query_positions, kBackwardQueryBlock)},
        hulls_(context.team, problem_.mask, shape, problem_.query_blocks),
        dq_(context, problem_.query_blocks, shape.batch, shape.heads, shape.heads / shape.kv_heads,
            shape.head_dim),
        workspaces_(context.team.size()) {
    const int64_t rows = shape.batch * shape.heads * problem_.q_len;
    logsumexp_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    delta_ = Buffer(context.meter, MemoryCategory::kActivations, rows * sizeof(float));
    problem_.hulls = &hulls_;
    problem_.logsumexp = logsumexp_.as<float>();
    problem_.delta = delta_.as<float>();
    const auto blocks = static_cast<int64_t>(problem_.query_blocks.size());
    context_.team.ForEach(shape.batch * blocks, [&](int64_t index, int) {
      DispatchDType(saved.output.dtype, [&]<class T>(T) {
        PrepareRows<T>(index / blocks, problem_.query_blocks[index % blocks]);
      });
    });
    if (bias_gradient) Zero(*bias_gradient);
  }

  int64_t BlockBytes(int64_t kv_len) const override {
    return problem_.shape.batch * problem_.shape.kv_heads *
           BackwardBlock<const Storage>(problem_.shape, kv_len).HeadElements() *
           static_cast<int64_t>(sizeof(Storage));
  }

  void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
            std::span<std::byte> block) override {
    const AttentionShape& shape = problem_.shape;
    const int64_t kv_len = Count(positions);
    CheckKeyValue(key, value, shape, kv_len);
    assert(static_cast<int64_t>(block.size()) == BlockBytes(kv_len));
    const BackwardBlock<Storage> layout(shape, kv_len, block.data());
    ForEachRow(kv_len, [&](int64_t batch, int64_t row, int64_t head) {
      PackRow(key.at<Storage>(batch, row, head), shape.head_dim, layout.Keys(batch, head, row));
      PackRow(value.at<Storage>(batch, row, head), shape.value_dim,
              layout.Values(batch, head, row));
    });
  }

  int64_t GradientBytes(int64_t kv_len) const override {
    return GradientBlock<const float>(problem_.shape, kv_len).Elements() *
           static_cast<int64_t>(sizeof(float));
  }

  void Attend(std::span<const std::byte> block, const Positions& key_positions,
              std::span<std::byte> gradient, const ProgressHook& progress) override {
    const int64_t kv_len = Count(key_positions);
    assert(static_cast<int64_t>(block.size()) == BlockBytes(kv_len));
    assert(static_cast<int64_t>(gradient.size()) == GradientBytes(kv_len));
    WithTileKernels<Storage>(problem_.shape, problem_.q_len, kv_len, [&](const auto& kernels) {
      AttendWith(kernels, block, key_positions, gradient, progress);
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
    CheckKeyRows("key gradient", key_gradient, problem_.shape, kv_len, problem_.shape.head_dim);
    CheckKeyRows("value gradient", value_gradient, problem_.shape, kv_len,
                 problem_.shape.value_dim);
    assert(static_cast<int64_t>(gradient.size()) == GradientBytes(kv_len));
    const GradientBlock<const float> sums(problem_.shape, kv_len, gradient.data());
    ForEachRow(kv_len, [&](int64_t batch, int64_t row, int64_t head) {
      WriteRow(sums.Keys(batch, head, row), key_gradient, batch, row, head);
      WriteRow(sums.Values(batch, head, row), value_gradient, batch, row, head);
    });
  }

  void Finish(const AttentionGradients& gradients) override {
    CheckQueryRows("query gradient", gradients.query, problem_.shape, problem_.q_len,
                   problem_.shape.head_dim);
    dq_.Finish(problem_.scale, gradients.query);
    if (gradients.sinks) SumSinkGradients(*gradients.sinks);
  }
  AttentionStats stats() const override {
    return {computed_tiles_, kBackwardQueryBlock, problem_.tile_rows};
  }

 private:
  // Calls visit(batch, row, kv_head) for all, dealt to the team by rows.
  template <class Visit>
  void ForEachRow(int64_t kv_len, const Visit& visit) {
    context_.team.Run([&](int thread) {
      const Range part = SplitRange(problem_.shape.batch * kv_len, context_.team.size(), thread);
      for (int64_t index = part.begin; index < part.end; ++index) {
        for (int64_t head = 0; head < problem_.shape.kv_heads; ++head) {
          visit(index / kv_len, index % kv_len, head);
        }
      }
    });
  }

  // logsumexp to base 2 and delta of one query block.
  template <class Output>
  void PrepareRows(int64_t batch, const RowBlock& rows) {
    for (int64_t head = 0; head < problem_.shape.heads; ++head) {
      const int64_t statistic = (batch * problem_.shape.heads + head) * problem_.q_len;
      for (int64_t row = rows.begin; row < rows.begin + rows.count(); ++row) {
        const float logsumexp = *saved_.logsumexp.at<float>(batch, head, row);
        float& base2 = logsumexp_.as<float>()[statistic + row];
        float& delta = delta_.as<float>()[statistic + row];
        if (logsumexp == -kInfinity) {
          // A row that sees nothing has p = 2^-inf = 0 whatever its scores.
          base2 = kInfinity;
          delta = 0;
          continue;
        }
        base2 = static_cast<float>(static_cast<double>(logsumexp) * std::numbers::log2e);
        const Storage* d_output = saved_.output_gradient.at<Storage>(batch, row, head);
        const Output* output = saved_.output.at<Output>(batch, row, head);
        double sum = 0;
        for (int64_t i = 0; i < problem_.shape.value_dim; ++i) {
          sum += static_cast<double>(static_cast<float>(d_output[i])) *
                 static_cast<double>(static_cast<float>(output[i]));
        }
        if (saved_.logsumexp_gradient) {
          sum -= static_cast<double>(*saved_.logsumexp_gradient->at<float>(batch, head, row));
        }
        delta = static_cast<float>(sum);
      }
    }
  }

  // f32, of four axes.
  void Zero(const TensorView& view) {
    const Shape& shape = view.shape;
    context_.team.ForEach(shape[0] * shape[1] * shape[2], [&](int64_t row, int) {
      const int64_t head = row / shape[2];
      std::fill_n(view.at<float>(head / shape[1], head % shape[1], row % shape[2]), shape[3], 0.0f);
    });
  }

  // sinks[head] = sum over this rank's rows of -exp(sink - logsumexp) delta, in row order.
  void SumSinkGradients(const TensorView& sinks) {
    context_.team.ForEach(problem_.shape.heads, [&](int64_t head, int) {
      const double sink = static_cast<double>(*sinks_->at<float>(head));
      double sum = 0;
      for (int64_t batch = 0; batch < problem_.shape.batch; ++batch) {
        const float* delta =
            problem_.delta + (batch * problem_.shape.heads + head) * problem_.q_len;
        for (int64_t row = 0; row < problem_.q_len; ++row) {
          const float logsumexp = *saved_.logsumexp.at<float>(batch, head, row);
          if (logsumexp == -kInfinity) continue;
          sum -= std::exp(sink - static_cast<double>(logsumexp)) * static_cast<double>(delta[row]);
        }
      }
      *sinks.at<float>(head) = static_cast<float>(sum);
    });
  }

  static void PackRow(const Storage* from, int64_t length, Rows<Storage> row) {
    std::copy_n(from, length, row.data);
    std::fill(row.data + length, row.data + row.stride, Storage{});
  }

  void WriteRow(const float* from, const TensorView& view, int64_t batch, int64_t row,
                int64_t head) const {
    DispatchDType(view.dtype, [&]<class T>(T) {
      T* to = view.at<T>(batch, row, head);
      for (int64_t i = 0; i < view.shape[3]; ++i) to[i] = T(from[i]);
    });
  }

  template <class Operand>
  void AttendWith(const TileKernels<Operand>& kernels, std::span<const std::byte> block,
                  const Positions& key_positions, std::span<std::byte> gradient,
                  const ProgressHook& progress) {
    using Walk = BackwardWalk<Storage, Operand>;
    const AttentionShape& shape = problem_.shape;
    const int64_t kv_len = Count(key_positions);
    const BackwardBlock<const Storage> layout(shape, kv_len, block.data());
    const GradientBlock<float> sums(shape, kv_len, gradient.data());
    const std::vector<RowBlock> tiles = CutIntoBlocks(key_positions, problem_.tile_rows);
    const BackwardPlan plan(context_.team, problem_.mask, shape, hulls_, problem_.query_blocks,
                            tiles);
    computed_tiles_ += plan.computed_tiles();
    const auto tile_count = static_cast<int64_t>(tiles.size());
    const int threads = context_.team.size();
    for (int64_t group = 0; group < plan.groups(); group += GroupsAtOnce()) {
      const std::vector<int64_t> bounds =
          plan.Deal(threads, group, std::min(group + GroupsAtOnce(), plan.groups()));
      context_.team.Run([&](int thread) {
        const Range items{bounds[thread], bounds[thread + 1]};
        if (items.size() > 0) {
          GrowBuffer(context_.meter, Walk::WorkspaceBytes(problem_), workspaces_[thread]);
          const Walk walk(problem_, kernels, workspaces_[thread].data());
          ProgressCounter counter(progress, thread);
          AttendItems(items, thread, tile_count, [&](int64_t item, int copy) {
            walk.Attend(layout, sums, tiles[item % tile_count], item / tile_count, dq_, copy,
                        counter);
          });
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
  }

  // Calls attend(item, copy of dq) for the items of one thread. Only the first head group of a
  // thread can have been begun by another one.
  template <class Attend>
  void AttendItems(const Range& items, int thread, int64_t tile_count, const Attend& attend) {
    const int64_t shared_group = items.begin % tile_count == 0 ? -1 : items.begin / tile_count;
    if (shared_group >= 0) dq_.ClearPrivate(thread);
    for (int64_t item = items.begin; item < items.end; ++item) {
      attend(item, item / tile_count == shared_group ? thread : QueryGradient::kSum);
    }
  }

  // Head groups that are dealt to the team at once. Groups that add to the same elements of the
  // bias's gradient take turns, so that the elements of a key tile belong to one thread at a time
  // and are summed in a fixed order, without copies of a tensor that may be the largest of all. The
  // cost: a turn has no more work to share than the key tiles of its groups, and ends when the last
  // of them does.
  int64_t GroupsAtOnce() const {
    const AttentionShape& shape = problem_.shape;
    if (!problem_.bias_gradient) return shape.batch * shape.kv_heads;
    const Shape& bias = problem_.bias_gradient->shape;
    if (bias[1] == 1 && shape.kv_heads > 1) return 1;
    return bias[0] == 1 ? shape.kv_heads : shape.batch * shape.kv_heads;
  }

  Context& context_;
  const AttentionSaved saved_;
  const std::optional<ConstTensorView> sinks_;
  BackwardProblem problem_;
  const BlockHulls hulls_;
  QueryGradient dq_;
  Buffer logsumexp_;  // see BackwardProblem
  Buffer delta_;
  std::vector<Buffer> workspaces_;  // of each thread
  int64_t computed_tiles_ = 0;
};

}  // namespace

std::unique_ptr<ShardAttentionBackward> MakeShardAttentionBackward(
    Context& context, const AttentionShape& shape, const AttentionOptions& options,
    ConstTensorView query, const AttentionSaved& saved, const Positions& query_positions,
    const std::optional<TensorView>& bias_gradient) {
  CheckAttentionShape(shape);
  const int64_t q_len = Count(query_positions);
  CheckQueryRows("query", query, shape, q_len, shape.head_dim);
  CheckDType("query", query, shape.dtype);
  CheckSaved(saved, shape, q_len);
  if (bias_gradient) CheckShape("bias gradient", *bias_gradient, options.bias->shape);
  if (shape.dtype == DType::kF32) {
    return std::make_unique<TiledBackward<float>>(context, shape, options, query, saved,
                                                  query_positions, bias_gradient);
  }
  return std::make_unique<TiledBackward<bf16>>(context, shape, options, query, saved,
                                               query_positions, bias_gradient);
}

}  // namespace ringwise
