#pragma once

#include <cstdint>

#include "kernels/gemm.h"
#include "ringwise/classifier.h"
#include "transformer/activation_memory.h"
#include "transformer/biased_linear.h"
#include "transformer/layer_norm.h"
#include "transformer/packed_shard.h"

namespace ringwise {

// The parameters of one layer, by what they do; named as torch.nn.TransformerEncoderLayer's.
struct EncoderLayerParameters {
  Parameter* qkv;       // [3 hidden, hidden]
  Parameter* qkv_bias;  // [3 hidden]
  Parameter* output;    // [hidden, hidden]
  Parameter* output_bias;
  Parameter* up;  // [ffn, hidden]
  Parameter* up_bias;
  Parameter* down;  // [hidden, ffn]
  Parameter* down_bias;
  Parameter* first_gain;  // of the norm that belongs to attention: [hidden], or a document's
  Parameter* first_bias;
  Parameter* second_gain;  // of the feed-forward's
  Parameter* second_bias;
};

// What a layer's forward keeps for its backward, in the compute type; rows are this rank's.
struct EncoderLayerSaved {
  Activation input;               // [rows, hidden]: x
  Activation qkv;                 // [rows, 3 hidden]
  Activation attention;           // [rows, hidden]
  Tensor logsumexp;               // [1, heads, rows] f32
  Activation after_attention;     // [rows, hidden]: u, or what N_1 makes u of
  Activation after_feed_forward;  // [rows, hidden]: what N_2 makes y of; norms after the sums alone
  NormSaved first;
  NormSaved second;
};

// Blocks of rows between attentions, and one tensor of all rows; one for all layers.
struct EncoderWorkspace {
  EncoderWorkspace(Context& context, const ClassifierConfig& config, DType compute, int64_t rows,
                   ActivationMemory& memory);

  ActivationMemory& memory;
  Tensor normed, change;         // [block rows, hidden]
  Tensor inner, inner_gradient;  // [block rows, ffn]
  Activation branch;             // [rows, hidden], of backward: made by the first layer that asks
};

// One layer of an encoder, see Classifier. The feed-forward goes a block of rows at a time, in
// backward as well, so that nothing of all rows is ffn wide. Not thread-safe; Forward and Backward
// are collective over the ring.
class EncoderLayer {
 public:
  // Layer `index` of the encoder.
  EncoderLayer(Gemm& gemm, const ClassifierConfig& config, const EncoderLayerParameters& parameters,
               int64_t index, DType compute);

  void WeightsChanged();

  // x [rows, hidden] -> y, and in `saved` what Backward needs.
  Activation Forward(const PackedShard& shard, EncoderWorkspace& work, Activation x,
                     EncoderLayerSaved& saved);
  // gradient [rows, hidden]: of y on entry, of x on return. Adds the parameters' gradients. Returns
  // each saved tensor's memory after its last use.
  void Backward(const PackedShard& shard, EncoderWorkspace& work, EncoderLayerSaved saved,
                Activation& gradient);

 private:
  enum class Site : uint64_t { kAttention, kFeedForward, kProbabilities };

  struct AttentionViews {
    TensorView query, key, value;
  };

  bool norms_after() const { return config_.norm_place == NormPlace::kAfter; }
  Dropout DropoutAt(const PackedShard& shard, Site site, double probability) const;
  RingAttentionOptions AttentionOptionsOf(const PackedShard& shard) const;
  AttentionViews Heads(Activation& qkv) const;
  TensorView HeadView(Activation& rows, int64_t first_column) const;
  // Drops of what a sublayer gives, or of its gradient.
  void Drop(const PackedShard& shard, Site site, int64_t begin, TensorView x) const;

  void ProjectQkv(const PackedShard& shard, EncoderWorkspace& work, EncoderLayerSaved& saved);
  // What the projections read of rows from `begin`, made in `normed` if need be.
  TensorView ProjectionInput(const PackedShard& shard, EncoderLayerSaved& saved, int64_t begin,
                             TensorView normed) const;
  // What the feed-forward reads of rows from `begin`: N_1 or N_2 of saved.after_attention's rows.
  void FeedForwardInput(const PackedShard& shard, const EncoderLayerSaved& saved, int64_t begin,
                        TensorView normed) const;
  // gradient: of what the feed-forward adds to. work.branch: of what FeedForwardInput gives.
  void BackwardFeedForward(const PackedShard& shard, EncoderWorkspace& work,
                           const EncoderLayerSaved& saved, Activation& gradient);
  // work.branch: of what the projections read.
  void BackwardAttention(const PackedShard& shard, EncoderWorkspace& work, EncoderLayerSaved& saved,
                         Activation& gradient);

  Context& context_;
  const ClassifierConfig config_;
  const int64_t index_;
  BiasedLinear qkv_;
  BiasedLinear output_;
  BiasedLinear up_;
  BiasedLinear down_;
  LayerNorm first_;
  LayerNorm second_;
};

}  // namespace ringwise
