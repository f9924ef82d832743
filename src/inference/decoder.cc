#include "inference/decoder.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "inference/prefill.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/swiglu.h"

namespace ringwise {
namespace {

TensorView RowView(std::vector<float>& row) {
  return {row.data(), DType::kF32, {1, static_cast<int64_t>(row.size())}};
}

PartialAttention PartialOf(float* memory, const ModelConfig& config) {
  float* row_max = memory + config.heads * config.head_dim;
  return {memory, row_max, row_max + config.heads, config.heads, config.head_dim};
}

}  // namespace

Decoder::Decoder(Context& context, Communicator& ring, const ModelConfig& config,
                 const LlamaWeights& weights, DType compute)
    : context_(context),
      ring_(ring),
      config_(config),
      weights_(weights),
      compute_(compute),
      head_(context, {&weights.head, 1}, compute),
      attention_(context, {.heads = config.heads,
                           .kv_heads = config.kv_heads,
                           .head_dim = config.head_dim,
                           .dtype = compute}),
      cache_(context, config, compute) {
  layers_.reserve(weights.layers.size());
  for (const LayerWeights& layer : weights.layers) {
    const std::array qkv{layer.query, layer.key, layer.value};
    const std::array gate_up{layer.gate, layer.up};
    layers_.push_back({.qkv = {context, qkv, compute},
                       .output = {context, {&layer.output, 1}, compute},
                       .gate_up = {context, gate_up, compute},
                       .down = {context, {&layer.down, 1}, compute}});
  }
  const auto size = [](int64_t extent) { return static_cast<size_t>(extent); };
  hidden_.resize(size(config.hidden));
  normed_.resize(size(config.hidden));
  projected_.resize(size((config.heads + 2 * config.kv_heads) * config.head_dim));
  attended_.resize(size(config.heads * config.head_dim));
  gate_up_.resize(size(2 * config.ffn));
  inner_.resize(size(config.ffn));
  partial_.resize(size(config.heads * (config.head_dim + 2)));
}

std::span<const float> Decoder::Start(std::span<const int32_t> prompt, Layout layout) {
  prompt_ = static_cast<int64_t>(prompt.size());
  position_ = prompt_;
  hidden_ = Prefill(context_, ring_, config_, weights_, compute_, layout, prompt, cache_);
  return Logits();
}

std::span<const float> Decoder::Next(int32_t token) {
  std::copy_n(weights_.embedding.at<float>(token), config_.hidden, hidden_.data());
  const RotaryTable rotary(context_, {{position_, 1, 1}}, config_.head_dim, config_.rope_theta);
  const bool keeps = (position_ - prompt_) % ring_.size() == ring_.rank();
  if (keeps) cache_.AddRow(position_);

  float* query = projected_.data();
  float* key = query + config_.heads * config_.head_dim;
  float* value = key + config_.kv_heads * config_.head_dim;
  for (int64_t index = 0; index < config_.layers; ++index) {
    const auto at = static_cast<size_t>(index);
    Norm(weights_.layers[at].attention_norm);
    layers_[at].qkv.Multiply(normed_.data(), projected_.data());
    // Query and key heads lie side by side: one rotation turns both.
    ApplyRotary(context_, rotary, 0,
                {query, DType::kF32, {1, config_.heads + config_.kv_heads, config_.head_dim}});
    if (keeps) cache_.SetLast(index, key, value);
    Attend(index);
    layers_[at].output.Multiply(attended_.data(), hidden_.data(), true);

    Norm(weights_.layers[at].ffn_norm);
    layers_[at].gate_up.Multiply(normed_.data(), gate_up_.data());
    SwiGluForward(context_, RowView(gate_up_), RowView(inner_));
    layers_[at].down.Multiply(inner_.data(), hidden_.data(), true);
  }
  ++position_;
  return Logits();
}

void Decoder::Norm(std::span<const float> weight) {
  float inverse_rms = 0;
  RmsNormForward(context_, RowView(hidden_), weight, static_cast<float>(config_.rms_norm_eps),
                 RowView(normed_), {&inverse_rms, 1});
}

int64_t Decoder::FirstVisibleRow() const {
  return config_.window == 0 ? 0 : cache_.FirstRowFrom(position_ - config_.window + 1);
}

void Decoder::Attend(int64_t layer) {
  const PartialAttention mine = PartialOf(partial_.data(), config_);
  const int64_t first = FirstVisibleRow();
  const int64_t visible = cache_.rows() - first;
  attention_.Attend(projected_.data(), cache_.key(layer).Slice(0, first, visible),
                    cache_.value(layer).Slice(0, first, visible), mine);
  std::vector<float> merged(partial_.size());
  const PartialAttention whole = PartialOf(merged.data(), config_);  // row_sum 0: nothing yet
  if (ring_.size() == 1) {
    Merge(mine, whole);
  } else {
    std::vector<float> received(partial_.size());
    for (const auto& bytes : ring_.AllGather(std::as_bytes(std::span(partial_)))) {
      std::memcpy(received.data(), bytes.data(), bytes.size());
      Merge(PartialOf(received.data(), config_), whole);
    }
  }
  for (int64_t head = 0; head < config_.heads; ++head) {
    const float factor = Normalise(whole.row_max[head], whole.row_sum[head]).factor;
    for (int64_t i = head * config_.head_dim; i < (head + 1) * config_.head_dim; ++i) {
      attended_[static_cast<size_t>(i)] = factor * whole.output[i];
    }
  }
}

std::span<const float> Decoder::Logits() {
  if (ring_.rank() != 0) return {};
  logits_.resize(static_cast<size_t>(config_.vocab));
  Norm(weights_.final_norm);
  head_.Multiply(normed_.data(), logits_.data());
  return logits_;
}

}  // namespace ringwise
