#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/decode_attention.h"
#include "inference/kv_cache.h"
#include "inference/llama_weights.h"
#include "inference/row_product.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/layout.h"

namespace ringwise {

// The model on one token at a time, its cache of keys and values sharded over a ring. Everything
// but attention is computed on every rank alike; attention's partial results, one a rank, are
// merged in rank order, so all ranks hold the same bits. With a window each rank reads only the
// rows inside it. The n-th token after the prompt leaves its key and value on rank n mod ring size,
// which keeps the shards balanced.
class Decoder {
 public:
  // `weights` must outlive this.
  Decoder(Context& context, Communicator& ring, const ModelConfig& config,
          const LlamaWeights& weights, DType compute);

  // Takes the whole prompt, not empty, and returns the logits [vocab] of what follows it: on rank 0
  // of the ring, empty elsewhere. Collective.
  std::span<const float> Start(std::span<const int32_t> prompt, Layout layout);
  // Takes one more token, the same on every rank, and returns as Start does. Collective.
  std::span<const float> Next(int32_t token);

 private:
  struct Layer {
    RowProduct qkv, output, gate_up, down;
  };
  void Norm(std::span<const float> weight);  // normed = norm(hidden) * weight
  int64_t FirstVisibleRow() const;           // of the cache, to the token at position_
  void Attend(int64_t layer);                // attended, from the query in projected
  std::span<const float> Logits();

  Context& context_;
  Communicator& ring_;
  ModelConfig config_;
  const LlamaWeights& weights_;
  DType compute_;
  std::vector<Layer> layers_;
  RowProduct head_;
  DecodeAttention attention_;
  KeyValueCache cache_;
  int64_t prompt_ = 0;    // tokens of the prompt
  int64_t position_ = 0;  // of the next token
  std::vector<float> hidden_, normed_, projected_, attended_, gate_up_, inner_, logits_;
  std::vector<float> partial_;  // attended, then row_max and row_sum of each head
};

}  // namespace ringwise
