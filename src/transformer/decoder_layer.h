#pragma once

#include <vector>

#include "kernels/gemm.h"
#include "ringwise/llama.h"
#include "transformer/linear.h"
#include "transformer/parameters.h"
#include "transformer/row_blocks.h"
#include "transformer/sequence_shard.h"

namespace ringwise {

// What attention's forward leaves to its backward, beside its output.
struct AttentionKept {
  // [batch, heads of it, length] f32 of each head group; empty in the vanilla design.
  std::vector<Tensor> logsumexp;
  Tensor probabilities;  // [batch * length, heads * length], in the vanilla design alone
};

// What a layer's forward keeps for its backward, in the compute type; rows are this rank's. Empty
// tensors are recomputed.
struct LayerSaved {
  Recompute recompute = Recompute::kBlock;
  Tensor input;            // [rows, hidden]                              every mode
  Tensor attention;        // [rows, heads * head_dim], attention's output  none, attention
  AttentionKept kept;      // without the probabilities in mode attention      none, attention
  Tensor qkv;              // [rows, (heads + 2 kv_heads) * head_dim]       none
  Tensor after_attention;  // [rows, hidden], the residual stream           none
  Tensor gate_up;          // [rows, 2 ffn]                                 none
};

// One layer, with the residual stream x [rows, hidden] and N an RMSNorm:
//   [q; k; v] = N_1(x) [W_q; W_k; W_v]^T, q and k rotated;  a = ring attention(q, k, v)
//   x' = x + a W_o^T
//   [gate; up] = N_2(x') [W_gate; W_up]^T;  y = x' + (silu(gate) up) W_down^T
// Everything but the attention goes a block of rows at a time, which in designs that hold whole
// sequences is all of them. Not thread-safe; Forward and
// Backward are collective over the ring.
class DecoderLayer {
 public:
  // Layer `index` of the model.
  DecoderLayer(Gemm& gemm, const ModelConfig& config, const LayerParameters& parameters,
               int64_t index, DType compute);

  void WeightsChanged();

  // Returns y, and in `saved` what Backward needs in mode `recompute`. Takes x over.
  Tensor Forward(const SequenceShard& shard, BlockWorkspace& work, Tensor x, Recompute recompute,
                 LayerSaved& saved);
  // The same without a backward: x becomes y in place.
  void ForwardOnly(const SequenceShard& shard, BlockWorkspace& work, Tensor& x);

  // gradient [rows, hidden]: of y on entry, of x on return. Adds the parameters' gradients; frees
  // each saved tensor after its last use.
  void Backward(const SequenceShard& shard, BlockWorkspace& work, LayerSaved saved,
                Tensor& gradient);

 private:
  struct AttentionViews {
    TensorView query, key, value;
  };

  Tensor ProjectQkv(const SequenceShard& shard, BlockWorkspace& work, const Tensor& x);
  AttentionKept Attend(const SequenceShard& shard, BlockWorkspace& work, Tensor& qkv,
                       Tensor& attention);
  // The key/value heads of one group.
  Range KeyHeads(const SequenceShard& shard, int64_t group) const;
  // Of attention to the heads of one group, in this layer.
  RingAttentionOptions OptionsOf(const SequenceShard& shard, int64_t group) const;
  // Views [batch, length, heads, head_dim] of the heads of one group.
  AttentionViews Heads(const SequenceShard& shard, Tensor& qkv, int64_t group) const;
  // The same of attention's output, or its gradient.
  TensorView OutputHeads(const SequenceShard& shard, Tensor& attention, int64_t group) const;
  // [batch, heads, length, length] of every pair.
  TensorView PairView(const SequenceShard& shard, Tensor& probabilities) const;
  TensorView HeadView(const SequenceShard& shard, Tensor& rows, int64_t first_head,
                      int64_t heads) const;
  void Rotate(const SequenceShard& shard, int64_t begin, TensorView qkv_rows, bool back);
  // x' -> y for a block of rows; leaves gate_up as backward needs it.
  void FeedForward(BlockWorkspace& work, ConstTensorView after_attention, TensorView gate_up,
                   TensorView y);
  void BackwardFeedForward(const SequenceShard& shard, BlockWorkspace& work, LayerSaved& saved,
                           Tensor& gradient, Tensor& attention_gradient);
  // Writes the gradients of query, key and value.
  void AttendBackward(const SequenceShard& shard, LayerSaved& saved, Tensor& attention_gradient,
                      Tensor& qkv_gradient);
  void BackwardAttention(const SequenceShard& shard, BlockWorkspace& work, LayerSaved& saved,
                         Tensor attention_gradient);
  void BackwardQkv(const SequenceShard& shard, BlockWorkspace& work, const Tensor& x,
                   const Tensor& qkv_gradient, Tensor& gradient);

  void Normalize(BlockWorkspace& work, ConstTensorView x, const Parameter& norm, TensorView normed);
  void NormalizeBackward(BlockWorkspace& work, ConstTensorView x, Parameter& norm,
                         ConstTensorView normed_gradient, TensorView gradient);

  Gemm& gemm_;
  Context& context_;
  const ModelConfig config_;
  const int64_t index_;
  Linear qkv_;
  Linear output_;
  Linear gate_up_;
  Linear down_;
  Parameter& attention_norm_;
  Parameter& feed_forward_norm_;
};

}  // namespace ringwise
