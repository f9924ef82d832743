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

// Those that write to the residual stream.
bool IsSublayerOutput(const Parameter& parameter) {
  return parameter.name.ends_with("out_proj.weight") || parameter.name.ends_with("linear2.weight");
}

bool IsWordTable(const Parameter& parameter) {
  return parameter.name == "embedding.weight" || parameter.name == "words.weight" ||
         parameter.name == "pairs.weight";
}

}  // namespace

void VisitClassifierParameters(
    const ClassifierConfig& config,
    const std::function<void(const std::string& name, const Shape& shape, bool decays)>& visit) {
  const auto visit_linear = [&](const std::string& name, int64_t out, int64_t in) {
    visit(name + ".weight", {out, in}, true);
    visit(name + ".bias", {out}, false);
  };
  const int64_t hidden = config.hidden;
  const Shape norm =
      config.norm_over == NormOver::kDocument ? Shape{config.document_rows, hidden} : Shape{hidden};
  const auto visit_norm = [&](const std::string& name) {
    visit(name + ".weight", norm, false);
    visit(name + ".bias", norm, false);
  };
  if (config.network == Network::kWordsSeen) {
    visit("words.weight", {config.vocab, hidden}, true);
    visit("words.bias", {hidden}, false);
    visit_linear("second", hidden, hidden);
  } else {
    if (config.vocab > 0) {
      visit("embedding.weight", {config.vocab, hidden}, true);
      if (config.word_pairs > 0) visit("pairs.weight", {config.word_pairs, hidden}, true);
    } else if (config.features != hidden) {
      visit_linear("input", hidden, config.features);
    }
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      const std::string prefix = fmt::format("encoder.layers.{}.", layer);
      visit(prefix + "self_attn.in_proj_weight", {3 * hidden, hidden}, true);
      visit(prefix + "self_attn.in_proj_bias", {3 * hidden}, false);
      visit_linear(prefix + "self_attn.out_proj", hidden, hidden);
      visit_linear(prefix + "linear1", config.ffn, hidden);
      visit_linear(prefix + "linear2", hidden, config.ffn);
      visit_norm(prefix + "norm1");
      visit_norm(prefix + "norm2");
    }
    if (config.norm_place == NormPlace::kBefore) visit_norm("encoder.norm");
  }
  visit_linear("head", config.classes, hidden);
}

std::vector<Parameter> MakeClassifierParameters(MemoryMeter& meter,
                                                const ClassifierConfig& config) {
  std::vector<Parameter> parameters;
  VisitClassifierParameters(config, [&](const std::string& name, const Shape& shape, bool decays) {
    parameters.push_back({name, Tensor(meter, MemoryCategory::kParameters, DType::kF32, shape),
                          Tensor(meter, MemoryCategory::kGradients, DType::kF32, shape), decays});
  });
  return parameters;
}

void InitializeClassifier(Context& context, std::vector<Parameter>& parameters, int64_t layers,
                          uint64_t seed) {
  context.team.ForEach(std::ssize(parameters), [&](int64_t index, int) {
    Parameter& parameter = parameters[index];
    float* const values = parameter.value.data<float>();
    const int64_t elements = parameter.value.elements();
    if (!parameter.decays) {
      std::fill_n(values, elements, IsGain(parameter) ? 1.0f : 0.0f);
      return;
    }
    const Shape& shape = parameter.value.shape();
    double deviation = IsWordTable(parameter)
                           ? kWordDeviation
                           : std::sqrt(2.0 / static_cast<double>(shape[0] + shape[1]));
    if (IsSublayerOutput(parameter)) deviation /= std::sqrt(static_cast<double>(layers));
    Random random(seed, StreamOf(parameter.name));
    for (int64_t i = 0; i < elements; ++i) {
      values[i] = static_cast<float>(deviation) * random.Normal();
    }
  });
}

void CheckTokens(std::span<const int32_t> tokens, int64_t rows, int64_t vocab, int32_t least) {
  if (std::ssize(tokens) != rows) {
    throw ShapeError(
        fmt::format("a batch of {} rows here needs as many tokens, found {}", rows, tokens.size()));
  }
  for (const int32_t token : tokens) {
    if (token < least || token >= vocab) {
      throw UsageError(fmt::format("a token must be in [{}, {}), found {}", least, vocab, token));
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
