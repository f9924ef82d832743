#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>

#include "attention/attention_checks.h"
#include "attention/backward_block.h"
#include "attention/backward_plan.h"
#include "attention/backward_team.h"
#include "attention/backward_walk.h"
#include "attention/gradient_sum.h"
#include "attention/query_gradient.h"
#include "attention/query_statistics.h"
#include "attention/shard_attention.h"
#include "attention/tiling.h"

// Backward of one rank: what stays at home and what travels. How work is dealt to the team is in
// backward_team.h, the algorithm in backward_walk.h.
namespace ringwise {
namespace {

int64_t RowElements(const AttentionShape& shape) { return shape.head_dim + shape.value_dim; }

// Copies rows of a tensor to where `packed` looks.
template <class Storage>
void PackRows(ThreadTeam& team, const ConstTensorView& rows, const TensorView& packed) {
  const Shape& shape = rows.shape;
  team.Run([&](int thread) {
    const Range part = SplitRange(shape[0] * shape[1], team.size(), thread);
    for (int64_t index = part.begin; index < part.end; ++index) {
      for (int64_t head = 0; head < shape[2]; ++head) {
        std::copy_n(rows.at<Storage>(index / shape[1], index % shape[1], head), shape[3],
                    packed.at<Storage>(index / shape[1], index % shape[1], head));
      }
    }
  });
}

// f32, of four axes.
void Zero(ThreadTeam& team, const TensorView& view) {
  const Shape& shape = view.shape;
  team.ForEach(shape[0] * shape[1] * shape[2], [&](int64_t row, int) {
    const int64_t head = row / shape[2];
    std::fill_n(view.at<float>(head / shape[1], head % shape[1], row % shape[2]), shape[3], 0.0f);
  });
}

// What is the same whichever side travels.
template <class Storage>
class TiledBackward : public ShardAttentionBackward {
 public:
  // `home_len` rows are at home.
  TiledBackward(Context& context, const BackwardCall& call, int64_t home_len)
      : context_(context),
        call_(call),
        tile_rows_(BackwardTileRows(call.shape, home_len, context.team.size())),
        statistics_(context, call.shape, call.saved),
        query_blocks_(CutIntoBlocks(call.query_positions, kBackwardQueryBlock)),
        dq_(context, call.shape, query_blocks_),
        dk_(context, call.gradients.key),
        dv_(context, call.gradients.value),
        team_(context) {
    if (call.gradients.bias) Zero(context.team, *call.gradients.bias);
  }

  void Finish() override {
    dq_.Finish(Scale(call_.shape, call_.options), call_.gradients.query);
    dk_.Finish();
    dv_.Finish();
    if (call_.gradients.sinks) {
      statistics_.SumSinkGradients(*call_.options.sinks, *call_.gradients.sinks);
    }
  }
  AttentionStats stats() const override {
    return {team_.computed_tiles(), kBackwardQueryBlock, tile_rows_};
  }

 protected:
  // Of queries that are cut into `blocks`, whose hulls the caller keeps.
  BackwardProblem Problem(const ConstTensorView& query, const ConstTensorView& output_gradient,
                          const float* logsumexp, const float* delta,
                          const std::vector<RowBlock>& blocks, const BlockHulls& hulls) const {
    return {.shape = call_.shape,
            .mask = call_.options.mask,
            .scale = Scale(call_.shape, call_.options),
            .scale_base2 = ScaleToBase2(call_.shape, call_.options),
            .terms = ScoreTerms(call_.shape, call_.options),
            .dropout = call_.options.dropout,
            .bias_gradient = call_.gradients.bias,
            .query = query,
            .output_gradient = output_gradient,
            .q_len = query.shape[1],
            .tile_rows = tile_rows_,
            .query_blocks = blocks,
            .hulls = &hulls,
            .logsumexp = logsumexp,
            .delta = delta};
  }
  BlockHulls HullsOf(const std::vector<RowBlock>& blocks) const {
    return {context_.team, call_.options.mask, call_.shape, blocks};
  }

  Context& context_;
  const BackwardCall call_;
  const int64_t tile_rows_;
  const QueryStatistics statistics_;
  const std::vector<RowBlock> query_blocks_;  // of this rank
  QueryGradient dq_;                          // likewise
  GradientSum dk_, dv_;                       // likewise
  BackwardTeam<Storage> team_;
};

// Keys travel; queries, with a gradient of the bias, are at home.
template <class Storage>
class TravellingKeys final : public TiledBackward<Storage> {
 public:
  TravellingKeys(Context& context, const BackwardCall& call)
      : TiledBackward<Storage>(context, call, Count(call.query_positions)),
        hulls_(this->HullsOf(this->query_blocks_)),
        problem_(this->Problem(call.inputs.query, call.saved.output_gradient,
                               this->statistics_.logsumexp(), this->statistics_.delta(),
                               this->query_blocks_, hulls_)) {}

  TravelBytes BytesOf(int64_t rows) const override {
    return BackwardBytes(this->call_.shape, Travelling::kKeys, rows);
  }

  void Pack(Range rows, std::span<std::byte> block) override {
    const auto to = Laid<TensorView>(block.data(), this->call_.shape.dtype, rows.size());
    const KeyValueRows from = Own(rows);
    PackRows<Storage>(this->context_.team, from.key, to.key);
    PackRows<Storage>(this->context_.team, from.value, to.value);
  }

  void AttendOwn(Range rows, const ProgressHook& progress) override {
    this->team_.Attend(problem_, Own(rows), PositionsOf(this->call_.key_positions, rows),
                       {this->dk_.sum().Slice(1, rows.begin, rows.size()),
                        this->dv_.sum().Slice(1, rows.begin, rows.size())},
                       this->dq_, progress);
  }

  void Attend(std::span<const std::byte> block, const Positions& positions,
              std::span<std::byte> gradient, const ProgressHook& progress) override {
    const int64_t rows = Count(positions);
    assert(static_cast<int64_t>(block.size()) == BytesOf(rows).block);
    assert(static_cast<int64_t>(gradient.size()) == BytesOf(rows).gradient);
    const auto keys = Laid<ConstTensorView>(block.data(), this->call_.shape.dtype, rows);
    const auto sums = Laid<TensorView>(gradient.data(), DType::kF32, rows);
    this->team_.Attend(problem_, {keys.key, keys.value}, positions, {sums.key, sums.value},
                       this->dq_, progress);
  }

  void AddGradient(Range rows, std::span<const std::byte> gradient) override {
    const auto part = Laid<ConstTensorView>(gradient.data(), DType::kF32, rows.size());
    this->dk_.Add(rows, part.key);
    this->dv_.Add(rows, part.value);
  }

 private:
  template <class View>
  struct Pair {
    View key, value;
  };
  // Keys, then values, or their gradients.
  template <class View, class Memory>
  Pair<View> Laid(Memory* memory, DType dtype, int64_t rows) const {
    const AttentionShape& shape = this->call_.shape;
    const auto key =
        PackedRows<View>(memory, dtype, shape.batch, rows, shape.kv_heads, shape.head_dim);
    Memory* values = memory + static_cast<size_t>(key.elements()) * SizeOf(dtype);
    return {key,
            PackedRows<View>(values, dtype, shape.batch, rows, shape.kv_heads, shape.value_dim)};
  }
  KeyValueRows Own(Range rows) const {
    const AttentionInputs& inputs = this->call_.inputs;
    return {inputs.key.Slice(1, rows.begin, rows.size()),
            inputs.value.Slice(1, rows.begin, rows.size())};
  }

  const BlockHulls hulls_;
  const BackwardProblem problem_;
};

// Queries travel; keys and values are at home.
template <class Storage>
class TravellingQueries final : public TiledBackward<Storage> {
 public:
  TravellingQueries(Context& context, const BackwardCall& call)
      : TiledBackward<Storage>(context, call, Count(call.key_positions)) {}

  TravelBytes BytesOf(int64_t rows) const override {
    return BackwardBytes(this->call_.shape, Travelling::kQueries, rows);
  }

  void Pack(Range rows, std::span<std::byte> block) override {
    ThreadTeam& team = this->context_.team;
    const auto to = Laid<TensorView>(block.data(), rows.size());
    PackRows<Storage>(team, Own(this->call_.inputs.query, rows), to.query);
    PackRows<Storage>(team, Own(this->call_.saved.output_gradient, rows), to.output_gradient);
    const int64_t q_len = Count(this->call_.query_positions);
    for (int64_t head = 0; head < Heads(); ++head) {
      const int64_t from = head * q_len + rows.begin;
      std::copy_n(this->statistics_.logsumexp() + from, rows.size(),
                  to.logsumexp + head * rows.size());
      std::copy_n(this->statistics_.delta() + from, rows.size(), to.delta + head * rows.size());
    }
  }

  void AttendOwn(Range rows, const ProgressHook& progress) override {
    std::vector<RowBlock> blocks = this->query_blocks_;
    std::erase_if(blocks, [&](const RowBlock& block) {
      return block.begin < rows.begin || block.begin >= rows.end;
    });
    const BlockHulls hulls = this->HullsOf(blocks);
    AttendHome(
        this->Problem(this->call_.inputs.query, this->call_.saved.output_gradient,
                      this->statistics_.logsumexp(), this->statistics_.delta(), blocks, hulls),
        this->dq_, progress);
  }

  void Attend(std::span<const std::byte> block, const Positions& positions,
              std::span<std::byte> gradient, const ProgressHook& progress) override {
    const int64_t rows = Count(positions);
    assert(static_cast<int64_t>(block.size()) == BytesOf(rows).block);
    assert(static_cast<int64_t>(gradient.size()) == BytesOf(rows).gradient);
    const auto from = Laid<ConstTensorView>(block.data(), rows);
    const std::vector<RowBlock> blocks = CutIntoBlocks(positions, kBackwardQueryBlock);
    const BlockHulls hulls = this->HullsOf(blocks);
    QueryGradient dq(this->context_, this->call_.shape, blocks, gradient);
    AttendHome(
        this->Problem(from.query, from.output_gradient, from.logsumexp, from.delta, blocks, hulls),
        dq, progress);
  }

  void AddGradient(Range rows, std::span<const std::byte> gradient) override {
    this->dq_.Add(rows.begin, rows.size(), gradient);
  }

 private:
  template <class View>
  struct Block {
    static constexpr bool kConst = std::is_same_v<View, ConstTensorView>;
    using Float = std::conditional_t<kConst, const float, float>;
    Float* logsumexp;  // as QueryStatistics has them
    Float* delta;
    View query, output_gradient;
  };
  // The statistics come first, because they are aligned more strictly.
  template <class View, class Memory>
  Block<View> Laid(Memory* memory, int64_t rows) const {
    using Float = typename Block<View>::Float;
    const AttentionShape& shape = this->call_.shape;
    auto* logsumexp = reinterpret_cast<Float*>(memory);
    Float* delta = logsumexp + Heads() * rows;
    auto* queries = reinterpret_cast<Memory*>(delta + Heads() * rows);
    const auto query =
        PackedRows<View>(queries, shape.dtype, shape.batch, rows, shape.heads, shape.head_dim);
    Memory* gradients = queries + static_cast<size_t>(query.elements()) * sizeof(Storage);
    return {
        logsumexp, delta, query,
        PackedRows<View>(gradients, shape.dtype, shape.batch, rows, shape.heads, shape.value_dim)};
  }
  int64_t Heads() const { return this->call_.shape.batch * this->call_.shape.heads; }
  static ConstTensorView Own(const ConstTensorView& view, Range rows) {
    return view.Slice(1, rows.begin, rows.size());
  }

  void AttendHome(const BackwardProblem& problem, QueryGradient& dq, const ProgressHook& progress) {
    this->team_.Attend(problem, {this->call_.inputs.key, this->call_.inputs.value},
                       this->call_.key_positions, {this->dk_.sum(), this->dv_.sum()}, dq, progress);
  }
};

template <class Storage>
std::unique_ptr<ShardAttentionBackward> Make(Context& context, const BackwardCall& call,
                                             Travelling travelling) {
  if (travelling == Travelling::kKeys) {
    return std::make_unique<TravellingKeys<Storage>>(context, call);
  }
  return std::make_unique<TravellingQueries<Storage>>(context, call);
}

}  // namespace

TravelBytes BackwardBytes(const AttentionShape& shape, Travelling travelling, int64_t rows) {
  const auto element = static_cast<int64_t>(SizeOf(shape.dtype));
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  if (travelling == Travelling::kKeys) {
    const int64_t elements = shape.batch * shape.kv_heads * rows * RowElements(shape);
    return {elements * element, elements * kFloat};
  }
  const int64_t head_rows = shape.batch * shape.heads * rows;
  return {head_rows * (RowElements(shape) * element + 2 * kFloat),
          QueryGradient::SumBytes(shape, rows)};
}

std::unique_ptr<ShardAttentionBackward> MakeShardAttentionBackward(Context& context,
                                                                   const BackwardCall& call,
                                                                   Travelling travelling) {
  const AttentionShape& shape = call.shape;
  CheckAttentionShape(shape);
  const int64_t q_len = Count(call.query_positions);
  const int64_t kv_len = Count(call.key_positions);
  CheckQueryRows("query", call.inputs.query, shape, q_len, shape.head_dim);
  CheckDType("query", call.inputs.query, shape.dtype);
  CheckKeyValue(call.inputs.key, call.inputs.value, shape, kv_len);
  CheckSaved(call.saved, shape, q_len);
  CheckQueryRows("query gradient", call.gradients.query, shape, q_len, shape.head_dim);
  CheckKeyRows("key gradient", call.gradients.key, shape, kv_len, shape.head_dim);
  CheckKeyRows("value gradient", call.gradients.value, shape, kv_len, shape.value_dim);
  assert(!call.options.bias || travelling == Travelling::kKeys);
  if (call.gradients.bias) {
    CheckShape("bias gradient", *call.gradients.bias, call.options.bias->shape);
  }
  if (shape.dtype == DType::kF32) return Make<float>(context, call, travelling);
  return Make<bf16>(context, call, travelling);
}

}  // namespace ringwise
