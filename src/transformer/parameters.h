#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/llama.h"

namespace ringwise {

// The parameters of a Llama of this shape, in Hugging Face's order; contents undefined.
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

// See Llama::Initialize.
void InitializeParameters(Context& context, std::vector<Parameter>& parameters, int64_t layers,
                          uint64_t seed);

}  // namespace ringwise
