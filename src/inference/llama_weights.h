#pragma once

#include <span>
#include <vector>

#include "ringwise/llama.h"
#include "ringwise/model_config.h"
#include "ringwise/tensor.h"

namespace ringwise {

// A model's weights by their place in it, f32, rows [out, in]. Views: the parameters must outlive
// them.
struct LayerWeights {
  std::span<const float> attention_norm;  // [hidden]
  ConstTensorView query;                  // [heads * head_dim, hidden]
  ConstTensorView key, value;             // [kv_heads * head_dim, hidden]
  ConstTensorView output;                 // [hidden, heads * head_dim]
  std::span<const float> ffn_norm;        // [hidden]
  ConstTensorView gate, up;               // [ffn, hidden]
  ConstTensorView down;                   // [hidden, ffn]
};

struct LlamaWeights {
  // Throws ShapeError naming a parameter that is missing.
  LlamaWeights(const ModelConfig& config, const std::vector<Parameter>& parameters);

  ConstTensorView embedding;          // [vocab, hidden]
  std::span<const float> final_norm;  // [hidden]
  ConstTensorView head;               // [vocab, hidden]; the embedding itself if tied
  std::vector<LayerWeights> layers;
};

}  // namespace ringwise
