#include "transformer/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr int64_t kParametersPerLayer = 9;
constexpr double kInitialDeviation = 0.02;

bool WritesToResidual(std::string_view name) {
  return name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
}

}  // namespace

uint64_t StreamOf(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char letter : name) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;
  }
  return hash;
}

void VisitParameters(
    const ModelConfig& config,
    const std::function<void(const std::string& name, const Shape& shape)>& visit) {
  const int64_t hidden = config.hidden;
  const int64_t query_width = config.heads * config.head_dim;
  const int64_t key_width = config.kv_heads * config.head_dim;
  visit("model.embed_tokens.weight", {config.vocab, hidden});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    visit(prefix + "self_attn.q_proj.weight", {query_width, hidden});
    visit(prefix + "self_attn.k_proj.weight", {key_width, hidden});
    visit(prefix + "self_attn.v_proj.weight", {key_width, hidden});
    visit(prefix + "self_attn.o_proj.weight", {hidden, query_width});
    visit(prefix + "mlp.gate_proj.weight", {config.ffn, hidden});
    visit(prefix + "mlp.up_proj.weight", {config.ffn, hidden});
    visit(prefix + "mlp.down_proj.weight", {hidden, config.ffn});
    visit(prefix + "input_layernorm.weight", {hidden});
    visit(prefix + "post_attention_layernorm.weight", {hidden});
  }
  visit("model.norm.weight", {hidden});
  if (!config.tied_embeddings) visit("lm_head.weight", {config.vocab, hidden});
}

std::vector<Parameter> MakeParameters(MemoryMeter& meter, const ModelConfig& config) {
  std::vector<Parameter> parameters;
  parameters.reserve(static_cast<size_t>(config.layers * kParametersPerLayer + 3));
  VisitParameters(config, [&](const std::string& name, const Shape& shape) {
    parameters.push_back({name, Tensor(meter, MemoryCategory::kParameters, DType::kF32, shape),
                          Tensor(meter, MemoryCategory::kGradients, DType::kF32, shape),
                          shape.rank() > 1});
  });
  return parameters;
}

LayerParameters ParametersOfLayer(std::vector<Parameter>& parameters, int64_t layer) {
  Parameter* first = &parameters[static_cast<size_t>(1 + layer * kParametersPerLayer)];
  return {first,     first + 1, first + 2, first + 3, first + 4,
          first + 5, first + 6, first + 7, first + 8};
}

OuterParameters ParametersOutsideLayers(std::vector<Parameter>& parameters,
                                        const ModelConfig& config) {
  Parameter* norm = &parameters[static_cast<size_t>(1 + config.layers * kParametersPerLayer)];
  return {parameters.data(), norm, config.tied_embeddings ? parameters.data() : norm + 1};
}

void InitializeParameters(Context& context, std::vector<Parameter>& parameters, int64_t layers,
                          uint64_t seed) {
  const auto count = static_cast<int64_t>(parameters.size());
  context.team.ForEach(count, [&](int64_t index, int) {
    Parameter& parameter = parameters[index];
    float* values = parameter.value.data<float>();
    const int64_t elements = parameter.value.elements();
    if (!parameter.decays) {
      std::fill_n(values, elements, 1.0f);
      return;
    }
    const double shrink =
        WritesToResidual(parameter.name) ? std::sqrt(2.0 * static_cast<double>(layers)) : 1.0;
    const auto deviation = static_cast<float>(kInitialDeviation / shrink);
    Random random(seed, StreamOf(parameter.name));
    for (int64_t i = 0; i < elements; ++i) values[i] = deviation * random.Normal();
  });
}

}  // namespace ringwise
