#include "ringwise/llama.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "kernels/gemm.h"
#include "ringwise/error.h"
#include "transformer/decoder_layer.h"
#include "transformer/embedding.h"
#include "transformer/model_mask.h"
#include "transformer/output_head.h"
#include "transformer/parameters.h"
#include "transformer/row_blocks.h"
#include "transformer/sequence_shard.h"

namespace ringwise {

std::string_view Name(Recompute recompute) {
  switch (recompute) {
    case Recompute::kNone:
      return "none";
    case Recompute::kAttention:
      return "attention";
    case Recompute::kBlock:
      return "block";
  }
  return "";
}

Recompute ParseRecompute(std::string_view name) {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kAttention, Recompute::kBlock}) {
    if (Name(recompute) == name) return recompute;
  }
  throw UsageError(fmt::format("--recompute must be none, attention or block, found '{}'", name));
}

class Llama::Impl {
 public:
  Impl(Context& context, const ModelConfig& config, DType compute)
      : context_(context),
        config_(config),
        compute_(compute),
        gemm_(context),
        parameters_((Validate(config), MakeParameters(context.meter, config))),
        outer_(ParametersOutsideLayers(parameters_, config_)),
        head_(gemm_, config_, *outer_.final_norm, *outer_.head, compute) {
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      layers_.emplace_back(gemm_, config_, ParametersOfLayer(parameters_, layer), layer, compute);
    }
  }

  const ModelConfig& config() const { return config_; }
  std::vector<Parameter>& parameters() { return parameters_; }

  void UseAttention(AttentionDesign design) {
    design_ = design;
    workspace_.reset();
  }

  void Initialize(uint64_t seed) {
    InitializeParameters(context_, parameters_, config_.layers, seed);
    ParametersChanged();
  }

  void ParametersChanged() {
    for (DecoderLayer& layer : layers_) layer.WeightsChanged();
    head_.WeightsChanged();
  }

  void ZeroGradients() {
    context_.team.ForEach(static_cast<int64_t>(parameters_.size()),
                          [&](int64_t index, int) { parameters_[index].gradient.Zero(); });
  }

  LossSum Forward(Communicator& ring, const TokenBatch& batch, double rope_theta) {
    const Tensor x = ForwardLayers(ring, batch, rope_theta);
    return head_.Forward(x.view(), batch.targets);
  }

  void Logits(Communicator& ring, const TokenBatch& batch, double rope_theta, TensorView logits) {
    const Tensor x = ForwardLayers(ring, batch, rope_theta);
    if (!(logits.shape == Shape{x.shape()[0], config_.vocab}) || logits.dtype != DType::kF32) {
      throw ShapeError(fmt::format("logits must be f32 [{}, {}], found {}", x.shape()[0],
                                   config_.vocab, logits.shape.ToString()));
    }
    head_.Logits(x.view(), logits);
  }

  LossSum ForwardBackward(Communicator& ring, const TokenBatch& batch, double rope_theta,
                          Recompute recompute, float gradient_scale) {
    SequenceShard shard = Shard(ring, batch, rope_theta);
    if (recompute == Recompute::kNone) shard.head_groups = 1;  // it has chosen speed
    BlockWorkspace& work = Workspace(shard.rows(), recompute == Recompute::kNone);
    std::vector<LayerSaved> saved(layers_.size());
    Tensor x = Embed(batch, work);
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      x = layers_[layer].Forward(shard, work, std::move(x), recompute, saved[layer]);
    }
    Tensor gradient = work.Activation(config_.hidden);
    const LossSum loss = ForwardBackwardHead(x, batch.targets, gradient_scale, gradient);
    work.Recycle(std::move(x));
    for (size_t layer = layers_.size(); layer-- > 0;) {
      layers_[layer].Backward(shard, work, std::move(saved[layer]), gradient);
    }
    EmbedBackward(context_, batch.tokens, gradient.view(), *outer_.embedding);
    work.Recycle(std::move(gradient));
    if (recompute != Recompute::kNone) workspace_.reset();
    return loss;
  }

 private:
  Tensor ForwardLayers(Communicator& ring, const TokenBatch& batch, double rope_theta) {
    const SequenceShard shard = Shard(ring, batch, rope_theta);
    BlockWorkspace work(gemm_, config_, compute_, shard.rows(), BlockWorkspace::Memory::kFrugal,
                        Blocks());
    Tensor x = Embed(batch, work);
    for (DecoderLayer& layer : layers_) layer.ForwardOnly(shard, work, x);
    return x;
  }

  // What a pass that keeps everything took is still there for the next one of the same size.
  BlockWorkspace& Workspace(int64_t rows, bool keeps) {
    if (!keeps || !workspace_ || workspace_->rows() != rows) {
      workspace_.reset();
      workspace_ = std::make_unique<BlockWorkspace>(
          gemm_, config_, compute_, rows,
          keeps ? BlockWorkspace::Memory::kKept : BlockWorkspace::Memory::kFrugal, Blocks());
    }
    return *workspace_;
  }

  BlockWorkspace::Blocks Blocks() const {
    const bool whole =
        design_ == AttentionDesign::kVanilla || design_ == AttentionDesign::kMemoryEfficient;
    return whole ? BlockWorkspace::Blocks::kWhole : BlockWorkspace::Blocks::kRows;
  }

  LossSum ForwardBackwardHead(const Tensor& x, std::span<const int32_t> targets,
                              float gradient_scale, Tensor& gradient) {
    const TraceSpan span(context_.trace, TraceKind::kCompute, "output head");
    return head_.ForwardBackward(x.view(), targets, gradient_scale, gradient.view());
  }

  Tensor Embed(const TokenBatch& batch, BlockWorkspace& work) {
    Tensor x = work.Activation(config_.hidden);
    EmbedForward(context_, *outer_.embedding, batch.tokens, x.view());
    return x;
  }

  SequenceShard Shard(Communicator& ring, const TokenBatch& batch, double rope_theta) const {
    CheckRingOf(design_, ring.size());
    if (batch.positions.size() != static_cast<size_t>(ring.size())) {
      throw ShapeError(fmt::format("a batch needs the positions of all {} ranks, found {}",
                                   ring.size(), batch.positions.size()));
    }
    const int64_t length = Count(batch.positions[static_cast<size_t>(ring.rank())]);
    const auto rows = static_cast<size_t>(batch.batch * length);
    if (batch.tokens.size() != rows || batch.targets.size() != rows) {
      throw ShapeError(
          fmt::format("a batch of {} sequences with {} rows here needs {} tokens and "
                      "targets, found {} and {}",
                      batch.batch, length, rows, batch.tokens.size(), batch.targets.size()));
    }
    for (const int32_t token : batch.tokens) {
      if (token < 0 || token >= config_.vocab) {
        throw UsageError(fmt::format("a token must be in [0, {}), found {}", config_.vocab, token));
      }
    }
    if (batch.documents && batch.documents->batch() != batch.batch) {
      throw ShapeError(fmt::format("a batch of {} sequences needs the documents of each, found {}",
                                   batch.batch, batch.documents->batch()));
    }
    if (!std::isfinite(rope_theta) || rope_theta <= 0) {
      throw UsageError(fmt::format("rope_theta must be a positive number, found {}", rope_theta));
    }
    RingAttentionOptions attention;
    attention.mask = ModelMask(config_);
    attention.mask.segments = batch.documents;
    attention.mask.slices = batch.slices;
    attention.dropout = batch.dropout;
    attention.query_positions = batch.positions;
    attention.key_positions = batch.positions;
    int64_t sequence = 0;
    for (const Positions& positions : batch.positions) sequence += Count(positions);
    // The same on every rank, whatever the length of its own shard.
    const int64_t groups = design_ == AttentionDesign::kVanilla
                               ? 1
                               : HeadGroups(sequence / ring.size(), config_.kv_heads);
    return {ring, std::move(attention), rope_theta, batch.batch, length, groups, design_};
  }

  Context& context_;
  const ModelConfig config_;
  const DType compute_;
  AttentionDesign design_ = AttentionDesign::kRing;
  Gemm gemm_;
  std::vector<Parameter> parameters_;
  OuterParameters outer_;
  OutputHead head_;
  std::deque<DecoderLayer> layers_;
  std::unique_ptr<BlockWorkspace> workspace_;
};

Llama::Llama(Context& context, const ModelConfig& config, DType compute)
    : impl_(std::make_unique<Impl>(context, config, compute)) {}
Llama::~Llama() = default;

const ModelConfig& Llama::config() const { return impl_->config(); }
std::vector<Parameter>& Llama::parameters() { return impl_->parameters(); }
void Llama::UseAttention(AttentionDesign design) { impl_->UseAttention(design); }
void Llama::Initialize(uint64_t seed) { impl_->Initialize(seed); }
void Llama::ParametersChanged() { impl_->ParametersChanged(); }
void Llama::ZeroGradients() { impl_->ZeroGradients(); }

LossSum Llama::Forward(Communicator& ring, const TokenBatch& batch, double rope_theta) {
  return impl_->Forward(ring, batch, rope_theta);
}

void Llama::Logits(Communicator& ring, const TokenBatch& batch, double rope_theta,
                   TensorView logits) {
  impl_->Logits(ring, batch, rope_theta, logits);
}

LossSum Llama::ForwardBackward(Communicator& ring, const TokenBatch& batch, double rope_theta,
                               Recompute recompute, float gradient_scale) {
  return impl_->ForwardBackward(ring, batch, rope_theta, recompute, gradient_scale);
}

}  // namespace ringwise
