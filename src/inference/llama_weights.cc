#include "inference/llama_weights.h"

#include <fmt/format.h>

#include <map>
#include <string>
#include <string_view>

#include "ringwise/error.h"

namespace ringwise {

LlamaWeights::LlamaWeights(const ModelConfig& config, const std::vector<Parameter>& parameters) {
  std::map<std::string_view, const Parameter*> by_name;
  for (const Parameter& parameter : parameters) by_name.emplace(parameter.name, &parameter);
  const auto matrix = [&](const std::string& name) {
    const auto found = by_name.find(name);
    if (found == by_name.end()) throw ShapeError("the model has no parameter " + name);
    return found->second->value.view();
  };
  const auto vector = [&](const std::string& name) {
    const ConstTensorView view = matrix(name);
    return std::span<const float>(view.data<float>(), static_cast<size_t>(view.elements()));
  };
  embedding = matrix("model.embed_tokens.weight");
  final_norm = vector("model.norm.weight");
  head = config.tied_embeddings ? embedding : matrix("lm_head.weight");
  layers.reserve(static_cast<size_t>(config.layers));
  for (int64_t index = 0; index < config.layers; ++index) {
    const auto name = [&](const char* part) {
      return fmt::format("model.layers.{}.{}.weight", index, part);
    };
    layers.push_back({.attention_norm = vector(name("input_layernorm")),
                      .query = matrix(name("self_attn.q_proj")),
                      .key = matrix(name("self_attn.k_proj")),
                      .value = matrix(name("self_attn.v_proj")),
                      .output = matrix(name("self_attn.o_proj")),
                      .ffn_norm = vector(name("post_attention_layernorm")),
                      .gate = matrix(name("mlp.gate_proj")),
                      .up = matrix(name("mlp.up_proj")),
                      .down = matrix(name("mlp.down_proj"))});
  }
}

}  // namespace ringwise
