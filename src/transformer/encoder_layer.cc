#include "transformer/encoder_layer.h"

#include <algorithm>
#include <utility>

#include "kernels/activation_dropout.h"
#include "kernels/convert.h"
#include "ringwise/random.h"
#include "ringwise/ring_attention.h"
#include "transformer/rotate_heads.h"
#include "transformer/row_blocks.h"

namespace ringwise {
EncoderWorkspace::EncoderWorkspace(Context& context, const ClassifierConfig& config, DType compute,
                                   int64_t rows, ActivationMemory& activations)
    : memory(activations) {
  const int64_t block = std::min(rows, kBlockRows);
  const auto make = [&](int64_t columns) {
    return Tensor(context.meter, MemoryCategory::kWorkspace, compute, {block, columns});
  };
  normed = make(config.hidden);
  change = make(config.hidden);
  inner = make(config.ffn);
  inner_gradient = make(config.ffn);
}

EncoderLayer::EncoderLayer(Gemm& gemm, const ClassifierConfig& config,
                           const EncoderLayerParameters& parameters, int64_t index, DType compute)
    : context_(gemm.context()),
      config_(config),
      index_(index),
      qkv_(gemm, *parameters.qkv, *parameters.qkv_bias, compute),
      output_(gemm, *parameters.output, *parameters.output_bias, compute),
      up_(gemm, *parameters.up, *parameters.up_bias, compute),
      down_(gemm, *parameters.down, *parameters.down_bias, compute),
      first_(gemm.context(), config.norm_over, config.norm_eps, *parameters.first_gain,
             *parameters.first_bias),
      second_(gemm.context(), config.norm_over, config.norm_eps, *parameters.second_gain,
              *parameters.second_bias) {}

void EncoderLayer::WeightsChanged() {
  for (BiasedLinear* linear : {&qkv_, &output_, &up_, &down_}) linear->WeightsChanged();
}

Activation EncoderLayer::Forward(const PackedShard& shard, EncoderWorkspace& work, Activation x,
                                 EncoderLayerSaved& saved) {
  const TraceSpan layer(context_.trace, TraceKind::kPhase, "layer forward", {{"index", index_}});
  const int64_t rows = shard.rows();
  saved.input = std::move(x);
  if (!norms_after()) saved.first = first_.Measure(shard, saved.input.view());
  ProjectQkv(shard, work, saved);

  saved.attention = work.memory.Take(rows, config_.hidden);
  saved.logsumexp =
      Tensor(context_.meter, MemoryCategory::kActivations, DType::kF32, {1, config_.heads, rows});
  const AttentionViews heads = Heads(saved.qkv);
  RingAttentionForward(context_, shard.ring(), AttentionOptionsOf(shard),
                       {heads.query, heads.key, heads.value},
                       {HeadView(saved.attention, 0), saved.logsumexp.view()});

  saved.after_attention = work.memory.Take(rows, config_.hidden);
  ForEachCommonBlock(rows, [&](int64_t begin, int64_t count) {
    const TensorView sum = saved.after_attention.view().Slice(0, begin, count);
    output_.Forward(saved.attention.view().Slice(0, begin, count), sum);
    Drop(shard, Site::kAttention, begin, sum);
    Add(context_, saved.input.view().Slice(0, begin, count), sum);
  });
  (norms_after() ? saved.first : saved.second) =
      (norms_after() ? first_ : second_).Measure(shard, saved.after_attention.view());

  Activation y = work.memory.Take(rows, config_.hidden);
  ForEachCommonBlock(rows, [&](int64_t begin, int64_t count) {
    const TensorView normed = work.normed.view().Slice(0, 0, count);
    const TensorView inner = work.inner.view().Slice(0, 0, count);
    const TensorView sum = y.view().Slice(0, begin, count);
    FeedForwardInput(shard, saved, begin, normed);
    up_.ForwardRelu(normed, inner);
    down_.Forward(inner, sum);
    Drop(shard, Site::kFeedForward, begin, sum);
    Add(context_, norms_after() ? normed : saved.after_attention.view().Slice(0, begin, count),
        sum);
  });
  if (norms_after()) {
    saved.second = second_.Measure(shard, y.view());
    saved.after_feed_forward = std::exchange(y, work.memory.Take(rows, config_.hidden));
    second_.Forward(shard, saved.second, 0, saved.after_feed_forward.view(), y.view());
  }
  return y;
}

void EncoderLayer::Backward(const PackedShard& shard, EncoderWorkspace& work,
                            EncoderLayerSaved saved, Activation& gradient) {
  const TraceSpan layer(context_.trace, TraceKind::kPhase, "layer backward", {{"index", index_}});
  if (!work.branch) work.branch = work.memory.Take(shard.rows(), config_.hidden);

  // after: y = N_2(u' + F(u')), u' = N_1(u);   before: y = u + F(N_2(u))
  if (norms_after()) {
    second_.Backward(shard, saved.second, saved.after_feed_forward.view(), gradient.view());
    work.memory.Return(std::move(saved.after_feed_forward));
  }
  BackwardFeedForward(shard, work, saved, gradient);
  if (!norms_after()) {
    second_.Backward(shard, saved.second, saved.after_attention.view(), work.branch.view());
  }
  Add(context_, work.branch.view(), gradient.view());

  // after: u = x + A(x);   before: u = x + A(N_1(x))
  if (norms_after()) {
    first_.Backward(shard, saved.first, saved.after_attention.view(), gradient.view());
  }
  work.memory.Return(std::move(saved.after_attention));
  BackwardAttention(shard, work, saved, gradient);
  if (!norms_after()) {
    first_.Backward(shard, saved.first, saved.input.view(), work.branch.view());
  }
  work.memory.Return(std::move(saved.input));
  Add(context_, work.branch.view(), gradient.view());
}

TensorView EncoderLayer::ProjectionInput(const PackedShard& shard, EncoderLayerSaved& saved,
                                         int64_t begin, TensorView normed) const {
  const TensorView input = saved.input.view().Slice(0, begin, normed.shape[0]);
  if (norms_after()) return input;
  first_.Forward(shard, saved.first, begin, input, normed);
  return normed;
}

void EncoderLayer::ProjectQkv(const PackedShard& shard, EncoderWorkspace& work,
                              EncoderLayerSaved& saved) {
  saved.qkv = work.memory.Take(shard.rows(), 3 * config_.hidden);
  ForEachCommonBlock(shard.rows(), [&](int64_t begin, int64_t count) {
    const TensorView rows = saved.qkv.view().Slice(0, begin, count);
    qkv_.Forward(ProjectionInput(shard, saved, begin, work.normed.view().Slice(0, 0, count)), rows);
    if (config_.rope_theta > 0) {
      RotateHeads(context_, shard.sequence, begin, rows, 2 * config_.heads,
                  config_.hidden / config_.heads, false);
    }
  });
}

void EncoderLayer::BackwardAttention(const PackedShard& shard, EncoderWorkspace& work,
                                     EncoderLayerSaved& saved, Activation& gradient) {
  const int64_t rows = shard.rows();
  // The gradient of attention's output first stands where that of the projections' input will.
  ForEachCommonBlock(rows, [&](int64_t begin, int64_t count) {
    const TensorView change = work.change.view().Slice(0, 0, count);
    Convert(context_, gradient.view().Slice(0, begin, count), change);
    Drop(shard, Site::kAttention, begin, change);
    output_.BackwardWeights(change, saved.attention.view().Slice(0, begin, count));
    output_.BackwardInput(change, work.branch.view().Slice(0, begin, count));
  });
  Activation qkv_gradient = work.memory.Take(rows, 3 * config_.hidden);
  const AttentionViews heads = Heads(saved.qkv);
  const AttentionViews gradients = Heads(qkv_gradient);
  RingAttentionBackward(
      context_, shard.ring(), AttentionOptionsOf(shard), {heads.query, heads.key, heads.value},
      {HeadView(saved.attention, 0), saved.logsumexp.view(), HeadView(work.branch, 0)},
      {gradients.query, gradients.key, gradients.value});
  work.memory.Return(std::move(saved.qkv));
  work.memory.Return(std::move(saved.attention));
  ForEachCommonBlock(rows, [&](int64_t begin, int64_t count) {
    const TensorView changes = qkv_gradient.view().Slice(0, begin, count);
    if (config_.rope_theta > 0) {
      RotateHeads(context_, shard.sequence, begin, changes, 2 * config_.heads,
                  config_.hidden / config_.heads, true);
    }
    qkv_.BackwardWeights(
        changes, ProjectionInput(shard, saved, begin, work.normed.view().Slice(0, 0, count)));
    qkv_.BackwardInput(changes, work.branch.view().Slice(0, begin, count));
  });
  work.memory.Return(std::move(qkv_gradient));
}

void EncoderLayer::FeedForwardInput(const PackedShard& shard, const EncoderLayerSaved& saved,
                                    int64_t begin, TensorView normed) const {
  const ConstTensorView sum = saved.after_attention.view().Slice(0, begin, normed.shape[0]);
  (norms_after() ? first_ : second_)
      .Forward(shard, norms_after() ? saved.first : saved.second, begin, sum, normed);
}

void EncoderLayer::BackwardFeedForward(const PackedShard& shard, EncoderWorkspace& work,
                                       const EncoderLayerSaved& saved, Activation& gradient) {
  ForEachCommonBlock(shard.rows(), [&](int64_t begin, int64_t count) {
    const TensorView normed = work.normed.view().Slice(0, 0, count);
    const TensorView change = work.change.view().Slice(0, 0, count);
    const TensorView inner = work.inner.view().Slice(0, 0, count);
    const TensorView inner_gradient = work.inner_gradient.view().Slice(0, 0, count);
    FeedForwardInput(shard, saved, begin, normed);
    up_.ForwardRelu(normed, inner);
    Convert(context_, gradient.view().Slice(0, begin, count), change);
    Drop(shard, Site::kFeedForward, begin, change);
    down_.BackwardWeights(change, inner);
    down_.BackwardInput(change, inner_gradient);
    ReluBackward(context_, inner, inner_gradient);
    up_.BackwardWeights(inner_gradient, normed);
    up_.BackwardInput(inner_gradient, work.branch.view().Slice(0, begin, count));
  });
}

Dropout EncoderLayer::DropoutAt(const PackedShard& shard, Site site, double probability) const {
  if (!shard.dropout_seed || probability == 0) return {};
  const uint64_t of_layer = DeriveSeed(*shard.dropout_seed, static_cast<uint64_t>(index_));
  return {.probability = probability, .seed = DeriveSeed(of_layer, static_cast<uint64_t>(site))};
}

void EncoderLayer::Drop(const PackedShard& shard, Site site, int64_t begin, TensorView x) const {
  const Dropout dropout = DropoutAt(shard, site, config_.dropout);
  if (dropout.probability == 0) return;
  DropActivations(context_, dropout, shard.sequence.PositionsOfRows(begin, x.shape[0]), x);
}

RingAttentionOptions EncoderLayer::AttentionOptionsOf(const PackedShard& shard) const {
  RingAttentionOptions options = shard.sequence.attention;
  options.dropout = DropoutAt(shard, Site::kProbabilities, config_.attention_dropout);
  return options;
}

EncoderLayer::AttentionViews EncoderLayer::Heads(Activation& qkv) const {
  return {HeadView(qkv, 0), HeadView(qkv, config_.hidden), HeadView(qkv, 2 * config_.hidden)};
}

TensorView EncoderLayer::HeadView(Activation& rows, int64_t first_column) const {
  const int64_t head_dim = config_.hidden / config_.heads;
  TensorView view = rows.view().Slice(1, first_column, config_.hidden);
  const int64_t count = view.shape[0];
  const int64_t width = view.strides[0];
  view.shape = {1, count, config_.heads, head_dim};
  view.strides = {count * width, width, head_dim, 1};
  return view;
}

}  // namespace ringwise
