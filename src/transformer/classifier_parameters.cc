#include "transformer/classifier_parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "ringwise/error.h"
#include "ringwise/random.h"
#include "transformer/parameters.h"

namespace ringwise {
namespace {

constexpr double kWordDeviation = 0.05;

bool IsGain(const Parameter& parameter) {
  return parameter.name.ends_with("norm1.weight") || parameter.name.ends_with("norm2.weight") ||
         parameter.name.ends_with("norm.weight");
}

bool IsWordTable(const Parameter& parameter) {
  return parameter.name == "embedding.weight" || parameter.name == "words.weight";
}

}  // namespace

std::vector<Parameter> MakeClassifierParameters(MemoryMeter& meter,
                                                const ClassifierConfig& config) {
  std::vector<Parameter> parameters;
  const auto add = [&](const std::string& name, const Shape& shape, bool decays) {
    parameters.push_back({name, Tensor(meter, MemoryCategory::kParameters, DType::kF32, shape),
                          Tensor(meter, MemoryCategory::kGradients, DType::kF32, shape), decays});
  };
  const auto add_linear = [&](const std::string& name, int64_t out, int64_t in) {
    add(name + ".weight", {out, in}, true);
    add(name + ".bias", {out}, false);
  };
  const int64_t hidden = config.hidden;
  const Shape norm =
      config.norm_over == NormOver::kDocument ? Shape{config.document_rows, hidden} : Shape{hidden};
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", norm, false);
    add(name + ".bias", norm, false);
  };
  if (config.network == Network::kWordsSeen) {
    add("words.weight", {config.vocab, hidden}, true);
    add("words.bias", {hidden}, false);
    add_linear("second", hidden, hidden);
  } else {
    if (config.vocab > 0) {
      add("embedding.weight", {config.vocab, hidden}, true);
    } else if (config.features != hidden) {
      add_linear("input", hidden, config.features);
    }
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      const std::string prefix = fmt::format("encoder.layers.{}.", layer);
      add(prefix + "self_attn.in_proj_weight", {3 * hidden, hidden}, true);
      add(prefix + "self_attn.in_proj_bias", {3 * hidden}, false);
      add_linear(prefix + "self_attn.out_proj", hidden, hidden);
      add_linear(prefix + "linear1", config.ffn, hidden);
      add_linear(prefix + "linear2", hidden, config.ffn);
      add_norm(prefix + "norm1");
      add_norm(prefix + "norm2");
    }
    if (config.norm_place == NormPlace::kBefore) add_norm("encoder.norm");
  }
  add_linear("head", config.classes, hidden);
  return parameters;
}

void InitializeClassifier(Context& context, std::vector<Parameter>& parameters, uint64_t seed) {
  context.team.ForEach(std::ssize(parameters), [&](int64_t index, int) {
    Parameter& parameter = parameters[index];
    float* const values = parameter.value.data<float>();
    const int64_t elements = parameter.value.elements();
    if (!parameter.decays) {
      std::fill_n(values, elements, IsGain(parameter) ? 1.0f : 0.0f);
      return;
    }
    const Shape& shape = parameter.value.shape();
    const double deviation = IsWordTable(parameter)
                                 ? kWordDeviation
                                 : std::sqrt(2.0 / static_cast<double>(shape[0] + shape[1]));
    Random random(seed, StreamOf(parameter.name));
    for (int64_t i = 0; i < elements; ++i) {
      values[i] = static_cast<float>(deviation) * random.Normal();
    }
  });
}

void CheckTokens(const DocumentBatch& batch, int64_t rows, int64_t vocab) {
  if (static_cast<int64_t>(batch.tokens.size()) != rows) {
    throw ShapeError(fmt::format("a batch of {} rows here needs as many tokens, found {}", rows,
                                 batch.tokens.size()));
  }
  for (const int32_t token : batch.tokens) {
    if (token < 0 || token >= vocab) {
      throw UsageError(fmt::format("a token must be in [0, {}), found {}", vocab, token));
    }
  }
}

void CheckLabels(const DocumentBatch& batch, int64_t classes) {
  if (batch.labels.size() != batch.documents.size()) {
    throw ShapeError(fmt::format("a batch of {} documents needs as many labels, found {}",
                                 batch.documents.size(), batch.labels.size()));
  }
  for (const int32_t label : batch.labels) {
    if (label < 0 || label >= classes) {
      throw UsageError(fmt::format("a label must be in [0, {}), found {}", classes, label));
    }
  }
}

}  // namespace ringwise
