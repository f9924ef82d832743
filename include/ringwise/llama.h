#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ringwise/attention_design.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/dropout.h"
#include "ringwise/mask.h"
#include "ringwise/model_config.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// What backward recomputes, from most memory to least. Kept a layer, in units of (tokens of this
// rank x hidden x bytes of the compute type), with w = heads * head_dim / hidden and
// g = 2 kv_heads / heads:
//   none       2 + (2 + g) w + 2 ffn / hidden
//              all that backward needs, but never scores. Its memory is held from step to step, so
//              that the system need not clear it again.
//   attention  1 + w
//              a layer's input, its attention's output (and logsumexp): the ring's forward is never
//              run again; projections and feed-forward are
//   block      1
//              a layer's input alone
// Beside that one layer at a time is at work. Its highest mark is in attention's backward, where
// the ring holds, in f32, three gradients of a key/value block and that of the query: about 10
// units in f32 and 12 in bf16 for w = g = 1. A block of 512 rows is all that ever is ffn wide, but
// in `none`.
enum class Recompute { kNone, kAttention, kBlock };

std::string_view Name(Recompute recompute);       // "none", "attention", "block"
Recompute ParseRecompute(std::string_view name);  // throws UsageError naming the three

// A master weight and the gradient that accumulates for it, both f32 and whole on every rank. Names
// and shapes are Hugging Face's ("model.layers.0.self_attn.q_proj.weight" [heads * head_dim,
// hidden]).
struct Parameter {
  std::string name;
  Tensor value;
  Tensor gradient;
  bool decays = true;  // weight decay applies: matrices yes, norms no
};

// This rank's rows of `batch` sequences cut over a ring.
struct TokenBatch {
  int64_t batch = 0;
  std::span<const int32_t> tokens;   // [batch, local rows]
  std::span<const int32_t> targets;  // the next token of each; negative: no loss here
  std::vector<Positions> positions;  // of every rank of the ring
  // Documents packed in the whole sequences, the same on every rank of the ring: they do not see
  // each other. Null: each sequence is one.
  std::shared_ptr<const SegmentMap> documents = {};
  // Rectangles of positions, of some query heads or all, in whose union a pair must lie besides;
  // the same on every rank. Null: everywhere.
  std::shared_ptr<const std::vector<MaskSlice>> slices = {};
  // Of attention's probabilities, in training alone. Each layer draws from a seed of its own made
  // from this one; first_batch says which sequence of the step is the first here.
  Dropout dropout = {};
};

struct LossSum {
  double nats = 0;     // sum of cross-entropies over this rank's targets
  int64_t tokens = 0;  // targets counted
};

// The Llama architecture [arXiv 2302.13971]: RMSNorm, rotary embedding, grouped-query attention
// around a ring, within the config's window if it has one, SwiGLU, tied or untied output. Attention
// and feed-forward go a block of rows at a time; full logits never exist. Computes in `compute`
// with f32 master weights; every rank holds all weights.
class Llama {
 public:
  Llama(Context& context, const ModelConfig& config, DType compute);
  ~Llama();

  const ModelConfig& config() const;
  std::vector<Parameter>& parameters();  // in Hugging Face's order

  // How layers are computed from now on; kRing at first. The first three designs take a ring of one
  // in every pass, else UsageError. Loss and gradients are the same up to rounding.
  void UseAttention(AttentionDesign design);

  // Normal(0, 0.02), output projections of a layer divided by sqrt(2 layers); norms 1. The same for
  // any ring: a function of the seed and each parameter's name.
  void Initialize(uint64_t seed);
  // To be called after parameter values changed: remakes the copies in the compute type.
  void ParametersChanged();
  void ZeroGradients();

  // Loss of the batch on this rank. Collective over `ring`. rope_theta overrides the config's.
  LossSum Forward(Communicator& ring, const TokenBatch& batch, double rope_theta);
  // The same, and parameter.gradient += gradient_scale * d(sum of losses)/d(parameter), this rank's
  // part: the sum over ranks is the gradient.
  LossSum ForwardBackward(Communicator& ring, const TokenBatch& batch, double rope_theta,
                          Recompute recompute, float gradient_scale);
  // Logits of every row here, [batch * local rows, vocab] f32: as much memory as that is. For
  // checks and small inputs.
  void Logits(Communicator& ring, const TokenBatch& batch, double rope_theta, TensorView logits);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ringwise
