#include "transformer/encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/activation_dropout.h"
#include "kernels/convert.h"
#include "ringwise/error.h"
#include "ringwise/random.h"
#include "transformer/classifier_parameters.h"
#include "transformer/embedding.h"
#include "transformer/row_blocks.h"

namespace ringwise {
namespace {

// Streams of dropout beside the layers', which are numbered from 0.
constexpr uint64_t kInputStream = uint64_t{1} << 32;
constexpr uint64_t kPooledStream = kInputStream + 1;

bool Projects(const ClassifierConfig& config) {
  return config.vocab == 0 && config.features != config.hidden;
}

EncoderLayerParameters ParametersOf(const std::function<Parameter&(const std::string&)>& at,
                                    int64_t layer) {
  const std::string prefix = fmt::format("encoder.layers.{}.", layer);
  const auto named = [&](const char* name) { return &at(prefix + name); };
  return {.qkv = named("self_attn.in_proj_weight"),
          .qkv_bias = named("self_attn.in_proj_bias"),
          .output = named("self_attn.out_proj.weight"),
          .output_bias = named("self_attn.out_proj.bias"),
          .up = named("linear1.weight"),
          .up_bias = named("linear1.bias"),
          .down = named("linear2.weight"),
          .down_bias = named("linear2.bias"),
          .first_gain = named("norm1.weight"),
          .first_bias = named("norm1.bias"),
          .second_gain = named("norm2.weight"),
          .second_bias = named("norm2.bias")};
}

}  // namespace

Encoder::Encoder(Context& context, const ClassifierConfig& config, DType compute)
    : context_(context),
      config_(config),
      compute_(compute),
      gemm_(context),
      training_memory_(context.meter, compute),
      parameters_(MakeClassifierParameters(context.meter, config)),
      head_(gemm_, At("head.weight"), At("head.bias")) {
  if (Projects(config)) {
    projection_.emplace(gemm_, At("input.weight"), At("input.bias"), compute);
  }
  const auto at = [this](const std::string& name) -> Parameter& { return At(name); };
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    layers_.emplace_back(gemm_, config_, ParametersOf(at, layer), layer, compute);
  }
  if (config.norm_place == NormPlace::kBefore) {
    last_norm_.emplace(context, config.norm_over, config.norm_eps, At("encoder.norm.weight"),
                       At("encoder.norm.bias"));
  }
}

Parameter& Encoder::At(const std::string& name) {
  return *std::find_if(parameters_.begin(), parameters_.end(),
                       [&](const Parameter& parameter) { return parameter.name == name; });
}

void Encoder::Initialize(uint64_t seed) {
  InitializeClassifier(context_, parameters_, config_.layers, seed);
  ParametersChanged();
}

void Encoder::ParametersChanged() {
  if (projection_) projection_->WeightsChanged();
  for (EncoderLayer& layer : layers_) layer.WeightsChanged();
  head_.WeightsChanged();
}

void Encoder::CheckInput(const DocumentBatch& batch, int64_t rows) const {
  if (config_.vocab > 0) {
    CheckTokens(batch.tokens, rows, config_.vocab, 0);
    if (config_.word_pairs > 0) CheckTokens(batch.pairs, rows, config_.word_pairs, -1);
  } else if (batch.features.dtype != DType::kF32 ||
             batch.features.shape != Shape{rows, config_.features}) {
    throw ShapeError(fmt::format("a batch of {} rows here needs features f32 [{}, {}], found {}",
                                 rows, rows, config_.features, batch.features.shape.ToString()));
  }
  if (config_.norm_over == NormOver::kDocument) {
    for (const PackedDocument& document : batch.documents) {
      if (document.end - document.begin != config_.document_rows) {
        throw ShapeError(fmt::format("norms over documents need {} rows of each, found {}",
                                     config_.document_rows, document.end - document.begin));
      }
    }
  }
}

Activation Encoder::EmbedInput(const PackedShard& shard, ActivationMemory& memory,
                               const DocumentBatch& batch) {
  const int64_t rows = shard.rows();
  Activation x = memory.Take(rows, config_.hidden);
  if (config_.vocab > 0) {
    EmbedForward(context_, At("embedding.weight"), batch.tokens, x.view());
    if (config_.word_pairs > 0) {
      EmbedAdd(context_, At("pairs.weight"), batch.pairs, x.view());
    }
  } else if (projection_) {
    Tensor block(context_.meter, MemoryCategory::kWorkspace, compute_,
                 {std::min(rows, kBlockRows), config_.features});
    ForEachCommonBlock(rows, [&](int64_t begin, int64_t count) {
      const TensorView input = block.view().Slice(0, 0, count);
      Convert(context_, batch.features.Slice(0, begin, count), input);
      projection_->Forward(input, x.view().Slice(0, begin, count));
    });
  } else {
    Convert(context_, batch.features, x.view());
  }
  DropInput(shard, x);
  return x;
}

void Encoder::BackwardInput(const PackedShard& shard, const DocumentBatch& batch,
                            Activation& gradient) {
  DropInput(shard, gradient);
  if (config_.vocab > 0) {
    EmbedBackward(context_, batch.tokens, gradient.view(), At("embedding.weight"));
    if (config_.word_pairs > 0) {
      EmbedBackward(context_, batch.pairs, gradient.view(), At("pairs.weight"));
    }
  } else if (projection_) {
    const int64_t rows = shard.rows();
    Tensor block(context_.meter, MemoryCategory::kWorkspace, compute_,
                 {std::min(rows, kBlockRows), config_.features});
    ForEachCommonBlock(rows, [&](int64_t begin, int64_t count) {
      const TensorView input = block.view().Slice(0, 0, count);
      Convert(context_, batch.features.Slice(0, begin, count), input);
      projection_->BackwardWeights(gradient.view().Slice(0, begin, count), input);
    });
  }
}

void Encoder::DropInput(const PackedShard& shard, Activation& x) const {
  if (!shard.dropout_seed || config_.input_dropout == 0) return;
  DropActivations(
      context_,
      {.probability = config_.input_dropout, .seed = DeriveSeed(*shard.dropout_seed, kInputStream)},
      shard.sequence.PositionsOfRows(0, shard.rows()), x.view());
}

void Encoder::DropPooled(const PackedShard& shard, Tensor& pooled) const {
  if (!shard.dropout_seed || config_.head_dropout == 0) return;
  DropActivations(
      context_,
      {.probability = config_.head_dropout, .seed = DeriveSeed(*shard.dropout_seed, kPooledStream)},
      {{0, pooled.shape()[0], 1}}, pooled.view());
}

void Encoder::Forward(const PackedShard& shard, EncoderWorkspace& work, const DocumentBatch& batch,
                      Saved& saved) {
  saved.layers.resize(layers_.size());
  Activation x = EmbedInput(shard, work.memory, batch);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    x = layers_[layer].Forward(shard, work, std::move(x), saved.layers[layer]);
    if (!shard.dropout_seed) saved.layers[layer] = {};  // nobody will go back
  }
  if (last_norm_) {
    saved.last = last_norm_->Measure(shard, x.view());
    saved.output = std::move(x);
    x = work.memory.Take(shard.rows(), config_.hidden);
    last_norm_->Forward(shard, saved.last, 0, saved.output.view(), x.view());
  }
  saved.pooled = Tensor(context_.meter, MemoryCategory::kActivations, DType::kF32,
                        {std::ssize(shard.documents), config_.hidden});
  PoolDocuments(context_, shard, x.view(), saved.pooled.view());
  work.memory.Return(std::move(x));
  DropPooled(shard, saved.pooled);
}

void Encoder::Logits(Communicator& ring, const DocumentBatch& batch, TensorView logits) {
  const PackedShard shard = MakePackedShard(ring, batch, config_.rope_theta, false);
  CheckInput(batch, shard.rows());
  ActivationMemory memory(context_.meter, compute_);
  EncoderWorkspace work(context_, config_, compute_, shard.rows(), memory);
  Saved saved;
  Forward(shard, work, batch, saved);
  head_.Logits(saved.pooled.view(), logits);
}

ClassSum Encoder::ForwardBackward(Communicator& ring, const DocumentBatch& batch,
                                  float gradient_scale) {
  const PackedShard shard = MakePackedShard(ring, batch, config_.rope_theta, true);
  CheckInput(batch, shard.rows());
  CheckLabels(batch, config_.classes);
  EncoderWorkspace work(context_, config_, compute_, shard.rows(), training_memory_);
  Saved saved;
  Forward(shard, work, batch, saved);
  Tensor pooled_gradient(context_.meter, MemoryCategory::kActivations, DType::kF32,
                         saved.pooled.shape());
  const ClassSum sum = head_.ForwardBackward(saved.pooled.view(), batch.labels, ring.rank() == 0,
                                             gradient_scale, pooled_gradient.view());
  DropPooled(shard, pooled_gradient);
  Activation gradient = work.memory.Take(shard.rows(), config_.hidden);
  PoolBackward(context_, shard, pooled_gradient.view(), gradient.view());
  if (last_norm_) {
    last_norm_->Backward(shard, saved.last, saved.output.view(), gradient.view());
    work.memory.Return(std::move(saved.output));
  }
  for (size_t layer = layers_.size(); layer-- > 0;) {
    layers_[layer].Backward(shard, work, std::exchange(saved.layers[layer], {}), gradient);
  }
  BackwardInput(shard, batch, gradient);
  work.memory.Return(std::move(work.branch));
  work.memory.Return(std::move(gradient));
  return sum;
}

}  // namespace ringwise
