#include "ringwise/classifier.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <utility>

#include "ringwise/error.h"
#include "transformer/encoder.h"
#include "transformer/words_seen.h"

namespace ringwise {
namespace {

template <class Value>
using Names = std::array<std::pair<Value, std::string_view>, 2>;

constexpr Names<Network> kNetworks = {
    {{Network::kEncoder, "encoder"}, {Network::kWordsSeen, "words_seen"}}};
constexpr Names<NormPlace> kNormPlaces = {
    {{NormPlace::kAfter, "after"}, {NormPlace::kBefore, "before"}}};
constexpr Names<NormOver> kNormOvers = {
    {{NormOver::kWidth, "width"}, {NormOver::kDocument, "document"}}};

template <class Value>
std::string_view NameOf(const Names<Value>& names, Value value) {
  return names[0].first == value ? names[0].second : names[1].second;
}

template <class Value>
Value Parse(const Names<Value>& names, const char* what, std::string_view name) {
  for (const auto& [value, known] : names) {
    if (known == name) return value;
  }
  throw UsageError(
      fmt::format("{} must be {} or {}, found '{}'", what, names[0].second, names[1].second, name));
}

void RequireSize(const char* name, int64_t value, int64_t least) {
  constexpr int64_t kLargest = int64_t{1} << 24;
  if (value < least || value > kLargest) {
    throw UsageError(
        fmt::format("{} must be from {} to {}, found {}", name, least, kLargest, value));
  }
}

void RequireProbability(const char* name, double value) {
  if (!(value >= 0 && value < 1)) {
    throw UsageError(fmt::format("{} must be in [0, 1), found {}", name, value));
  }
}

void ValidateEncoder(const ClassifierConfig& config) {
  RequireSize("layers", config.layers, 1);
  RequireSize("heads", config.heads, 1);
  RequireSize("ffn", config.ffn, 1);
  constexpr int64_t kLargestHeadDim = 256;
  const int64_t head_dim = config.hidden / config.heads;
  if (config.hidden % config.heads != 0 || head_dim > kLargestHeadDim) {
    throw UsageError(
        fmt::format("hidden must be a multiple of heads, at most {} a head, found {} "
                    "and {} heads",
                    kLargestHeadDim, config.hidden, config.heads));
  }
  if (config.rope_theta != 0 &&
      (!std::isfinite(config.rope_theta) || config.rope_theta < 0 || head_dim % 2 != 0)) {
    throw UsageError(
        fmt::format("rope_theta must be 0 (no positions), or above 0 with an even "
                    "width of a head, found {} and {}",
                    config.rope_theta, head_dim));
  }
  if (config.norm_over == NormOver::kDocument) {
    RequireSize("document_rows", config.document_rows, 1);
  }
  if (!(std::isfinite(config.norm_eps) && config.norm_eps > 0)) {
    throw UsageError(fmt::format("norm_eps must be above 0, found {}", config.norm_eps));
  }
}

}  // namespace

std::string_view Name(Network network) { return NameOf(kNetworks, network); }
std::string_view Name(NormPlace place) { return NameOf(kNormPlaces, place); }
std::string_view Name(NormOver over) { return NameOf(kNormOvers, over); }
Network ParseNetwork(std::string_view name) { return Parse(kNetworks, "network", name); }
NormPlace ParseNormPlace(std::string_view name) { return Parse(kNormPlaces, "norm place", name); }
NormOver ParseNormOver(std::string_view name) { return Parse(kNormOvers, "norm over", name); }

void Validate(const ClassifierConfig& config) {
  RequireSize("classes", config.classes, 2);
  RequireSize("hidden", config.hidden, 1);
  RequireSize("vocab", config.vocab, config.network == Network::kWordsSeen ? 1 : 0);
  RequireSize("features", config.features, config.vocab > 0 ? 0 : 1);
  RequireSize("word_pairs", config.word_pairs, 0);
  if (config.word_pairs > 0 && (config.vocab == 0 || config.network == Network::kWordsSeen)) {
    throw UsageError("word_pairs needs an encoder of words");
  }
  RequireProbability("dropout", config.dropout);
  RequireProbability("input_dropout", config.input_dropout);
  RequireProbability("attention_dropout", config.attention_dropout);
  RequireProbability("head_dropout", config.head_dropout);
  if (config.network == Network::kEncoder) ValidateEncoder(config);
}

std::unique_ptr<Classifier> MakeClassifier(Context& context, const ClassifierConfig& config,
                                           DType compute) {
  Validate(config);
  if (config.network == Network::kWordsSeen) return std::make_unique<WordsSeen>(context, config);
  return std::make_unique<Encoder>(context, config, compute);
}

double TrainFlops(const ClassifierConfig& config, double rows, double pairs) {
  if (config.network == Network::kWordsSeen) return 0;
  const auto hidden = static_cast<double>(config.hidden);
  const auto layers = static_cast<double>(config.layers);
  double multiplies = layers * hidden * (4 * hidden + 2 * static_cast<double>(config.ffn));
  if (config.vocab == 0 && config.features != config.hidden) {
    multiplies += hidden * static_cast<double>(config.features);
  }
  return 3 * (2 * multiplies * rows + 4 * layers * hidden * pairs);
}

}  // namespace ringwise
