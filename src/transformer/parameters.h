#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ringwise/llama.h"

namespace ringwise {

// Calls `visit` with every parameter's name and shape, in Hugging Face's order, making none.
void VisitParameters(const ModelConfig& config,
                     const std::function<void(const std::string& name, const Shape& shape)>& visit);

// The parameters of a Llama of this shape, in that order; contents undefined.
std::vector<Parameter> MakeParameters(MemoryMeter& meter, const ModelConfig& config);

// The parameters of one layer, by what they do, as MakeParameters orders them.
struct LayerParameters {
  Parameter* query;
  Parameter* key;
  Parameter* value;
  Parameter* output;
  Parameter* gate;
  Parameter* up;
  Parameter* down;
  Parameter* attention_norm;
  Parameter* feed_forward_norm;
};
LayerParameters ParametersOfLayer(std::vector<Parameter>& parameters, int64_t layer);

struct OuterParameters {
  Parameter* embedding;
  Parameter* final_norm;
  Parameter* head;  // the embedding, if tied
};
OuterParameters ParametersOutsideLayers(std::vector<Parameter>& parameters,
                                        const ModelConfig& config);

// Names a parameter's stream of random numbers by the parameter's name alone (FNV-1a).
uint64_t StreamOf(std::string_view name);

// See Llama::Initialize.
void InitializeParameters(Context& context, std::vector<Parameter>& parameters, int64_t layers,
                          uint64_t seed);

}  // namespace ringwise
