#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "formats/file_io.h"
#include "inference/weights.h"
#include "ringwise/classify.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;

using Json = nlohmann::ordered_json;

constexpr const char* kModelType = "ringwise_classifier";

std::string ConfigPath(const std::string& folder) { return folder + "/config.json"; }

Json ReadConfig(const std::string& folder) {
  CheckModelFolder(folder);
  Json json = Json::parse(ReadTextFile(ConfigPath(folder)), nullptr, false);
  if (!json.is_object()) throw FileError(ConfigPath(folder) + ": expected a JSON object");
  return json;
}

bool SaysClassifier(const Json& config) {
  const auto type = config.find("model_type");
  return type != config.end() && *type == kModelType;
}

// nlohmann-json would turn any number into any other, and true into 1.
void ReadNumber(const Json& json, const char* key, int64_t& number) {
  const Json& value = json.at(key);
  if (!value.is_number_integer()) {
    throw UsageError(fmt::format("{} must be a whole number, found {}", key, Quoted(value.dump())));
  }
  // Beyond 2^63 none is left negative, which no size may be.
  number = value.get<int64_t>();
}

void ReadNumber(const Json& json, const char* key, double& number) {
  const Json& value = json.at(key);
  if (!value.is_number()) {
    throw UsageError(fmt::format("{} must be a number, found {}", key, Quoted(value.dump())));
  }
  number = value.get<double>();
}

// The numbers of a configuration by their keys, for reading and writing alike.
template <class Config, class Visit>
void VisitNumbers(Config& config, Visit&& visit) {
  visit("vocab_size", config.vocab);
  visit("word_pairs", config.word_pairs);
  visit("features", config.features);
  visit("hidden_size", config.hidden);
  visit("num_hidden_layers", config.layers);
  visit("num_attention_heads", config.heads);
  visit("intermediate_size", config.ffn);
  visit("document_rows", config.document_rows);
  visit("layer_norm_eps", config.norm_eps);
  visit("rope_theta", config.rope_theta);
  visit("hidden_dropout", config.dropout);
  visit("input_dropout", config.input_dropout);
  visit("attention_dropout", config.attention_dropout);
  visit("head_dropout", config.head_dropout);
}

// Names are shown, and stand for the classes.
void CheckClasses(const std::vector<std::string>& classes) {
  std::set<std::string_view> known;
  for (const std::string& name : classes) {
    const bool shows =
        std::ranges::none_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
    if (name.empty() || !shows || !known.insert(name).second) {
      throw UsageError(fmt::format(
          "a class is named {}: names must be printable and differ from each other", Quoted(name)));
    }
  }
}

}  // namespace

bool IsClassifier(const std::string& folder) { return SaysClassifier(ReadConfig(folder)); }

ClassifierFolder ReadClassifierFolder(const std::string& folder) {
  const Json json = ReadConfig(folder);
  if (!SaysClassifier(json)) {
    throw FileError(fmt::format("{}: not a classifier: \"model_type\" is not \"{}\"",
                                ConfigPath(folder), kModelType));
  }
  ClassifierFolder about;
  try {
    json.at("task").get_to(about.task);
    json.at("classes").get_to(about.classes);
    about.config.classes = std::ssize(about.classes);
    about.config.network = ParseNetwork(json.at("network").get<std::string>());
    about.config.norm_place = ParseNormPlace(json.at("norm_place").get<std::string>());
    about.config.norm_over = ParseNormOver(json.at("norm_over").get<std::string>());
    VisitNumbers(about.config,
                 [&](const char* key, auto& number) { ReadNumber(json, key, number); });
    ReadNumber(json, "max_words", about.rule.max_words);
    json.at("keep_last_words").get_to(about.rule.keep_last);
    Validate(about.config);
    CheckClasses(about.classes);
    if (about.rule.max_words < 0) throw UsageError("max_words must be 0 (all) or more");
  } catch (const Json::exception& error) {
    throw FileError(fmt::format("{}: {}", ConfigPath(folder), error.what()));
  } catch (const UsageError& error) {
    throw FileError(fmt::format("{}: {}", ConfigPath(folder), error.what()));
  }
  if (about.config.vocab > 0) {
    about.vocabulary = Vocabulary::Read(folder);
    if (about.vocabulary->size() != about.config.vocab) {
      throw FileError(fmt::format("{}: vocabulary.txt has {} tokens, config.json says {}", folder,
                                  about.vocabulary->size(), about.config.vocab));
    }
  }
  return about;
}

void SaveClassifier(Classifier& model, const ClassifierFolder& about, const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw FileError(fmt::format("{}: cannot make folder: {}", folder, error.message()));
  const ClassifierConfig& config = model.config();
  Json json = {{"model_type", kModelType},
               {"task", about.task},
               {"network", Name(config.network)},
               {"norm_place", Name(config.norm_place)},
               {"norm_over", Name(config.norm_over)}};
  VisitNumbers(config, [&](const char* key, const auto& number) { json[key] = number; });
  json["max_words"] = about.rule.max_words;
  json["keep_last_words"] = about.rule.keep_last;
  json["classes"] = about.classes;
  WriteTextFile(ConfigPath(folder), json.dump(2) + "\n");
  if (about.vocabulary) about.vocabulary->Write(folder);
  WriteWeights(model.parameters(), folder);
  FlushFolder(folder);
}

std::unique_ptr<Classifier> LoadClassifier(Context& context, const std::string& folder,
                                           DType compute) {
  const ClassifierConfig config = ReadClassifierFolder(folder).config;
  CheckWeights(config, folder);
  auto model = MakeClassifier(context, config, compute);
  ReadWeights(model->parameters(), folder);
  model->ParametersChanged();
  return model;
}

}  // namespace ringwise
