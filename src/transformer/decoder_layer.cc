#include "transformer/decoder_layer.h"

#include <utility>

#include "kernels/convert.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "ringwise/random.h"
#include "transformer/model_mask.h"
#include "transformer/rotate_heads.h"
#include "transformer/vanilla_attention.h"

namespace ringwise {

DecoderLayer::DecoderLayer(Gemm& gemm, const ModelConfig& config, const LayerParameters& parameters,
                           int64_t index, DType compute)
    : gemm_(gemm),
      context_(gemm.context()),
      config_(config),
      index_(index),
      qkv_(gemm, {parameters.query, parameters.key, parameters.value}, compute),
      output_(gemm, {parameters.output}, compute),
      gate_up_(gemm, {parameters.gate, parameters.up}, compute),
      down_(gemm, {parameters.down}, compute),
      attention_norm_(*parameters.attention_norm),
      feed_forward_norm_(*parameters.feed_forward_norm) {}

void DecoderLayer::WeightsChanged() {
  for (Linear* linear : {&qkv_, &output_, &gate_up_, &down_}) linear->WeightsChanged();
}

Tensor DecoderLayer::Forward(const SequenceShard& shard, BlockWorkspace& work, Tensor x,
                             Recompute recompute, LayerSaved& saved) {
  const TraceSpan layer(context_.trace, TraceKind::kPhase, "layer forward", {{"index", index_}});
  Tensor qkv = ProjectQkv(shard, work, x);
  Tensor attention = work.Activation(config_.heads * config_.head_dim);
  saved.kept = Attend(shard, work, qkv, attention);
  if (recompute == Recompute::kNone) {
    saved.qkv = std::move(qkv);
    saved.after_attention = work.Activation(config_.hidden);
    saved.gate_up = work.Activation(2 * config_.ffn);
  } else {
    work.Recycle(std::move(qkv));
    saved.kept.probabilities = Tensor();
  }
  Tensor y = work.Activation(config_.hidden);
  const TraceSpan span(context_.trace, TraceKind::kCompute, "feed-forward");
  ForEachRowBlock(shard.rows(), work.block_rows(), [&](int64_t begin, int64_t rows) {
    const bool keep = recompute == Recompute::kNone;
    const TensorView y_rows = y.view().Slice(0, begin, rows);
    // Without a place to keep it, the residual stream after attention is made where y will be.
    const TensorView middle = keep ? saved.after_attention.view().Slice(0, begin, rows) : y_rows;
    Convert(context_, x.view().Slice(0, begin, rows), middle);
    output_.Forward(attention.view().Slice(0, begin, rows), middle, true);
    if (keep) Convert(context_, middle, y_rows);
    FeedForward(work, middle,
                keep ? saved.gate_up.view().Slice(0, begin, rows) : work.gate_up(rows), y_rows);
  });
  saved.recompute = recompute;
  saved.input = std::move(x);
  if (recompute != Recompute::kBlock) {
    saved.attention = std::move(attention);
  } else {
    saved.kept = {};
    work.Recycle(std::move(attention));
  }
  return y;
}

void DecoderLayer::ForwardOnly(const SequenceShard& shard, BlockWorkspace& work, Tensor& x) {
  const TraceSpan layer(context_.trace, TraceKind::kPhase, "layer forward", {{"index", index_}});
  Tensor attention = work.Activation(config_.heads * config_.head_dim);
  {
    Tensor qkv = ProjectQkv(shard, work, x);
    Attend(shard, work, qkv, attention);
  }
  const TraceSpan span(context_.trace, TraceKind::kCompute, "feed-forward");
  ForEachRowBlock(shard.rows(), work.block_rows(), [&](int64_t begin, int64_t rows) {
    const TensorView x_rows = x.view().Slice(0, begin, rows);
    output_.Forward(attention.view().Slice(0, begin, rows), x_rows, true);
    FeedForward(work, x_rows, work.gate_up(rows), x_rows);
  });
}

void DecoderLayer::Backward(const SequenceShard& shard, BlockWorkspace& work, LayerSaved saved,
                            Tensor& gradient) {
  const TraceSpan layer(context_.trace, TraceKind::kPhase, "layer backward", {{"index", index_}});
  if (saved.recompute == Recompute::kBlock) {
    saved.qkv = ProjectQkv(shard, work, saved.input);
    saved.attention = work.Activation(config_.heads * config_.head_dim);
    saved.kept = Attend(shard, work, saved.qkv, saved.attention);
  }
  Tensor attention_gradient = work.Activation(config_.heads * config_.head_dim);
  BackwardFeedForward(shard, work, saved, gradient, attention_gradient);
  work.Recycle(std::move(saved.after_attention));
  work.Recycle(std::move(saved.gate_up));
  if (saved.recompute == Recompute::kAttention) {
    saved.qkv = ProjectQkv(shard, work, saved.input);
    // Tiles make their scores again as they go; probabilities that are held are made first.
    if (shard.design == AttentionDesign::kVanilla) {
      saved.kept = Attend(shard, work, saved.qkv, saved.attention);
    }
  }
  BackwardAttention(shard, work, saved, std::move(attention_gradient));
  work.Recycle(std::move(saved.attention));
  saved.kept.logsumexp.clear();
  BackwardQkv(shard, work, saved.input, saved.qkv, gradient);
  work.Recycle(std::move(saved.qkv));
  work.Recycle(std::move(saved.input));
}

Tensor DecoderLayer::ProjectQkv(const SequenceShard& shard, BlockWorkspace& work, const Tensor& x) {
  const TraceSpan span(context_.trace, TraceKind::kCompute, "projections");
  Tensor qkv = work.Activation(qkv_.outputs());
  ForEachRowBlock(shard.rows(), work.block_rows(), [&](int64_t begin, int64_t rows) {
    const TensorView normed = work.normed(rows);
    const TensorView qkv_rows = qkv.view().Slice(0, begin, rows);
    Normalize(work, x.view().Slice(0, begin, rows), attention_norm_, normed);
    qkv_.Forward(normed, qkv_rows);
    Rotate(shard, begin, qkv_rows, false);
  });
  return qkv;
}

void DecoderLayer::BackwardQkv(const SequenceShard& shard, BlockWorkspace& work, const Tensor& x,
                               const Tensor& qkv_gradient, Tensor& gradient) {
  const TraceSpan span(context_.trace, TraceKind::kCompute, "projections backward");
  ForEachRowBlock(shard.rows(), work.block_rows(), [&](int64_t begin, int64_t rows) {
    const ConstTensorView x_rows = x.view().Slice(0, begin, rows);
    const ConstTensorView changes = qkv_gradient.view().Slice(0, begin, rows);
    const TensorView normed = work.normed(rows);
    const TensorView normed_gradient = work.normed_gradient(rows);
    Normalize(work, x_rows, attention_norm_, normed);
    qkv_.BackwardWeights(changes, normed);
    qkv_.BackwardInput(changes, normed_gradient);
    NormalizeBackward(work, x_rows, attention_norm_, normed_gradient,
                      gradient.view().Slice(0, begin, rows));
  });
}

AttentionKept DecoderLayer::Attend(const SequenceShard& shard, BlockWorkspace& work, Tensor& qkv,
                                   Tensor& attention) {
  AttentionKept kept;
  work.Release();
  if (shard.design == AttentionDesign::kVanilla) {
    kept.probabilities = work.Activation(config_.heads * shard.length);
    const AttentionViews heads = Heads(shard, qkv, 0);
    VanillaAttentionForward(gemm_, OptionsOf(shard, 0), {heads.query, heads.key, heads.value},
                            PairView(shard, kept.probabilities), OutputHeads(shard, attention, 0));
    return kept;
  }
  for (int64_t group = 0; group < shard.head_groups; ++group) {
    const AttentionViews heads = Heads(shard, qkv, group);
    kept.logsumexp.emplace_back(context_.meter, MemoryCategory::kActivations, DType::kF32,
                                Shape{shard.batch, heads.query.shape[2], shard.length});
    RingAttentionForward(context_, shard.ring, OptionsOf(shard, group),
                         {heads.query, heads.key, heads.value},
                         {OutputHeads(shard, attention, group), kept.logsumexp.back().view()});
  }
  return kept;
}

// Leaves the gradients of query, key and value, rotated back, in the place of qkv.
void DecoderLayer::BackwardAttention(const SequenceShard& shard, BlockWorkspace& work,
                                     LayerSaved& saved, Tensor attention_gradient) {
  work.Release();
  Tensor qkv_gradient = work.Activation(qkv_.outputs());
  AttendBackward(shard, saved, attention_gradient, qkv_gradient);
  work.Recycle(std::move(saved.kept.probabilities));
  work.Recycle(std::exchange(saved.qkv, std::move(qkv_gradient)));
  work.Recycle(std::move(attention_gradient));
  Rotate(shard, 0, saved.qkv.view(), true);
}

void DecoderLayer::AttendBackward(const SequenceShard& shard, LayerSaved& saved,
                                  Tensor& attention_gradient, Tensor& qkv_gradient) {
  for (int64_t group = 0; group < shard.head_groups; ++group) {
    const RingAttentionOptions options = OptionsOf(shard, group);
    const AttentionViews heads = Heads(shard, saved.qkv, group);
    const AttentionInputs inputs{heads.query, heads.key, heads.value};
    const TensorView output_gradient = OutputHeads(shard, attention_gradient, group);
    const AttentionViews changes = Heads(shard, qkv_gradient, group);
    const AttentionGradients gradients{changes.query, changes.key, changes.value};
    if (shard.design == AttentionDesign::kVanilla) {
      VanillaAttentionBackward(gemm_, options, inputs, PairView(shard, saved.kept.probabilities),
                               output_gradient, gradients);
      continue;
    }
    RingAttentionBackward(context_, shard.ring, options, inputs,
                          {OutputHeads(shard, saved.attention, group),
                           saved.kept.logsumexp[group].view(), output_gradient},
                          gradients);
  }
}

RingAttentionOptions DecoderLayer::OptionsOf(const SequenceShard& shard, int64_t group) const {
  RingAttentionOptions options = shard.attention;
  if (options.mask.slices) {
    const Range keys = KeyHeads(shard, group);
    const int64_t share = config_.heads / config_.kv_heads;
    options.mask.slices =
        SlicesOfHeads(*options.mask.slices, {keys.begin * share, keys.end * share});
  }
  if (options.dropout.probability == 0) return options;
  // The same for every number of groups: recomputing passes may have another.
  options.dropout.seed = DeriveSeed(options.dropout.seed, static_cast<uint64_t>(index_));
  options.dropout.first_head = KeyHeads(shard, group).begin * (config_.heads / config_.kv_heads);
  return options;
}

Range DecoderLayer::KeyHeads(const SequenceShard& shard, int64_t group) const {
  return SplitRange(config_.kv_heads, static_cast<int>(shard.head_groups), static_cast<int>(group));
}

DecoderLayer::AttentionViews DecoderLayer::Heads(const SequenceShard& shard, Tensor& qkv,
                                                 int64_t group) const {
  const Range keys = KeyHeads(shard, group);
  const int64_t share = config_.heads / config_.kv_heads;
  const int64_t first_key = config_.heads;
  const int64_t first_value = first_key + config_.kv_heads;
  return {HeadView(shard, qkv, keys.begin * share, keys.size() * share),
          HeadView(shard, qkv, first_key + keys.begin, keys.size()),
          HeadView(shard, qkv, first_value + keys.begin, keys.size())};
}

TensorView DecoderLayer::OutputHeads(const SequenceShard& shard, Tensor& attention,
                                     int64_t group) const {
  const Range keys = KeyHeads(shard, group);
  const int64_t share = config_.heads / config_.kv_heads;
  return HeadView(shard, attention, keys.begin * share, keys.size() * share);
}

TensorView DecoderLayer::PairView(const SequenceShard& shard, Tensor& probabilities) const {
  return {probabilities.view().memory,
          probabilities.dtype(),
          {shard.batch, config_.heads, shard.length, shard.length}};
}

TensorView DecoderLayer::HeadView(const SequenceShard& shard, Tensor& rows, int64_t first_head,
                                  int64_t heads) const {
  const int64_t width = rows.shape()[1];
  TensorView view = rows.view().Slice(1, first_head * config_.head_dim, heads * config_.head_dim);
  view.shape = {shard.batch, shard.length, heads, config_.head_dim};
  view.strides = {shard.length * width, width, config_.head_dim, 1};
  return view;
}

void DecoderLayer::Rotate(const SequenceShard& shard, int64_t begin, TensorView qkv_rows,
                          bool back) {
  // Query and key heads stand side by side: one call rotates both.
  RotateHeads(context_, shard, begin, qkv_rows, config_.heads + config_.kv_heads, config_.head_dim,
              back);
}

void DecoderLayer::FeedForward(BlockWorkspace& work, ConstTensorView after_attention,
                               TensorView gate_up, TensorView y) {
  const int64_t rows = y.shape[0];
  Normalize(work, after_attention, feed_forward_norm_, work.normed(rows));
  gate_up_.Forward(work.normed(rows), gate_up);
  SwiGluForward(context_, gate_up, work.inner(rows));
  down_.Forward(work.inner(rows), y, true);
}

void DecoderLayer::BackwardFeedForward(const SequenceShard& shard, BlockWorkspace& work,
                                       LayerSaved& saved, Tensor& gradient,
                                       Tensor& attention_gradient) {
  const TraceSpan span(context_.trace, TraceKind::kCompute, "feed-forward backward");
  const bool kept = saved.recompute == Recompute::kNone;
  ForEachRowBlock(shard.rows(), work.block_rows(), [&](int64_t begin, int64_t rows) {
    const TensorView change = gradient.view().Slice(0, begin, rows);
    const ConstTensorView attention = saved.attention.view().Slice(0, begin, rows);
    const TensorView middle =
        kept ? saved.after_attention.view().Slice(0, begin, rows) : work.residual(rows);
    const TensorView gate_up =
        kept ? saved.gate_up.view().Slice(0, begin, rows) : work.gate_up(rows);
    const TensorView normed = work.normed(rows);
    const TensorView inner = work.inner(rows);
    const TensorView inner_gradient = work.inner_gradient(rows);
    const TensorView normed_gradient = work.normed_gradient(rows);

    // x' = x + a W_o^T;  [gate; up] = N_2(x') W^T
    if (!kept) {
      Convert(context_, saved.input.view().Slice(0, begin, rows), middle);
      output_.Forward(attention, middle, true);
    }
    Normalize(work, middle, feed_forward_norm_, normed);
    if (!kept) gate_up_.Forward(normed, gate_up);
    // y = x' + inner W_down^T
    SwiGluForward(context_, gate_up, inner);
    down_.BackwardWeights(change, inner);
    down_.BackwardInput(change, inner_gradient);
    SwiGluBackward(context_, inner_gradient, gate_up);
    gate_up_.BackwardWeights(gate_up, normed);
    gate_up_.BackwardInput(gate_up, normed_gradient);
    NormalizeBackward(work, middle, feed_forward_norm_, normed_gradient, change);
    // x' = x + a W_o^T: x's gradient is x''s, which stays in place.
    output_.BackwardWeights(change, attention);
    output_.BackwardInput(change, attention_gradient.view().Slice(0, begin, rows));
  });
}

void DecoderLayer::Normalize(BlockWorkspace& work, ConstTensorView x, const Parameter& norm,
                             TensorView normed) {
  const std::span<const float> gain(norm.value.data<float>(), static_cast<size_t>(config_.hidden));
  RmsNormForward(context_, x, gain, static_cast<float>(config_.rms_norm_eps), normed,
                 work.inverse_rms(x.shape[0]));
}

// After Normalize of the same rows: their inverse_rms is still there.
void DecoderLayer::NormalizeBackward(BlockWorkspace& work, ConstTensorView x, Parameter& norm,
                                     ConstTensorView normed_gradient, TensorView gradient) {
  const auto hidden = static_cast<size_t>(config_.hidden);
  RmsNormBackward(context_, x, {norm.value.data<float>(), hidden}, work.inverse_rms(x.shape[0]),
                  normed_gradient, gradient, {norm.gradient.data<float>(), hidden});
}

}  // namespace ringwise
