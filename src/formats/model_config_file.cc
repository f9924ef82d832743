#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "formats/file_io.h"
#include "ringwise/error.h"
#include "ringwise/model_config.h"

namespace ringwise {
namespace {

using Json = nlohmann::ordered_json;

// The same layers; Mistral's have a window.
enum class Family { kLlama, kMistral };

std::string_view Architecture(Family family) {
  return family == Family::kLlama ? "LlamaForCausalLM" : "MistralForCausalLM";
}
std::string_view ModelType(Family family) { return family == Family::kLlama ? "llama" : "mistral"; }

// config.json, read with errors that name the file and the field. A field that is null counts as
// absent, as it does for transformers.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& path) : path_(path) {
    const std::string text = ReadTextFile(path_);
    try {
      json_ = Json::parse(text);
    } catch (const Json::parse_error& error) {
      Fail(fmt::format("not JSON at byte {}", error.byte));
    } catch (const Json::exception&) {
      Fail("a number out of range");
    }
    if (!json_.is_object()) Fail("expected a JSON object");
  }

  [[noreturn]] void Fail(const std::string& what) const { throw FileError(path_ + ": " + what); }

  bool Mentions(const std::string& field) const { return json_.contains(field); }
  const Json* Find(const std::string& field) const {
    const auto found = json_.find(field);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }

  int64_t Integer(const std::string& field, std::optional<int64_t> absent = std::nullopt) const {
    const Json* value = Find(field);
    if (value == nullptr) return OrFail(field, absent);
    if (!value->is_number_integer()) FailType(field, "an integer", *value);
    if (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{1} << 62) {
      FailType(field, "a smaller integer", *value);
    }
    return value->get<int64_t>();
  }
  double Number(const std::string& field, std::optional<double> absent = std::nullopt) const {
    const Json* value = Find(field);
    if (value == nullptr) return OrFail(field, absent);
    if (!value->is_number()) FailType(field, "a number", *value);
    return value->get<double>();
  }
  bool Boolean(const std::string& field, bool absent) const {
    const Json* value = Find(field);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) FailType(field, "true or false", *value);
    return value->get<bool>();
  }

  // Stops unless the option is absent or has the one value that this program computes.
  void Require(const std::string& field, const Json& supported) const {
    const Json* value = Find(field);
    if (value != nullptr && *value != supported) {
      Fail(fmt::format("{} {} is not supported, only {}", field, Shown(*value), Shown(supported)));
    }
  }

  static std::string Shown(const Json& value) {
    return Quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  }

 private:
  template <class T>
  T OrFail(const std::string& field, const std::optional<T>& absent) const {
    if (!absent) Fail("no field " + field);
    return *absent;
  }
  [[noreturn]] void FailType(const std::string& field, const std::string& expected,
                             const Json& found) const {
    Fail(fmt::format("{} must be {}, found {}", field, expected, Shown(found)));
  }

  std::string path_;
  Json json_;
};

Family ReadFamily(const ConfigFile& file) {
  const Json* architectures = file.Find("architectures");
  const Json* model_type = file.Find("model_type");
  if (architectures == nullptr && model_type == nullptr) {
    file.Fail("no field architectures; is it a model's configuration?");
  }
  for (const Family family : {Family::kLlama, Family::kMistral}) {
    const bool is_family = architectures != nullptr
                               ? *architectures == Json::array({std::string(Architecture(family))})
                               : *model_type == std::string(ModelType(family));
    if (is_family) return family;
  }
  file.Fail(fmt::format("architecture {} is not supported, only {} and {}",
                        ConfigFile::Shown(architectures != nullptr ? *architectures : *model_type),
                        Architecture(Family::kLlama), Architecture(Family::kMistral)));
}

// Mistral's own default stands in for a window that is not mentioned, but null means none.
int64_t ReadWindow(const ConfigFile& file, Family family) {
  constexpr int64_t kMistralWindow = 4096;
  if (family == Family::kLlama) return 0;
  if (!file.Mentions("sliding_window")) return kMistralWindow;
  if (file.Find("sliding_window") == nullptr) return 0;
  const int64_t window = file.Integer("sliding_window");
  if (window < 1)
    file.Fail(fmt::format("sliding_window must be null or above 0, found {}", window));
  return window;
}

// Of Mistral, too, null means as many as query heads.
int64_t ReadKeyValueHeads(const ConfigFile& file, Family family, int64_t heads) {
  constexpr int64_t kMistralKeyValueHeads = 8;
  const bool mistral_default = family == Family::kMistral && !file.Mentions("num_key_value_heads");
  return file.Integer("num_key_value_heads", mistral_default ? kMistralKeyValueHeads : heads);
}

// rope_theta stands by itself or, in newer files, in rope_parameters. Scaled rotary embeddings of
// any kind would give other numbers than the model's author had.
double ReadRopeTheta(const ConfigFile& file) {
  double theta = file.Number("rope_theta", 10000.0);
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = file.Find(field);
    if (rope == nullptr) continue;
    if (!rope->is_object()) file.Fail(fmt::format("{} must be an object", field));
    const std::string type = rope->contains("rope_type") ? "rope_type" : "type";
    if (!rope->contains(type) || rope->at(type) != "default") {
      file.Fail(fmt::format("{} {} is not supported, only the plain rotary embedding", field,
                            ConfigFile::Shown(*rope)));
    }
    if (rope->contains("rope_theta")) {
      if (!rope->at("rope_theta").is_number()) file.Fail("rope_theta must be a number");
      theta = rope->at("rope_theta").get<double>();
    }
  }
  return theta;
}

}  // namespace

ModelConfig ReadModelConfig(const std::string& folder) {
  return ReadModelConfigFile(folder + "/config.json");
}

ModelConfig ReadModelConfigFile(const std::string& path) {
  const ConfigFile file(path);
  const Family family = ReadFamily(file);
  file.Require("hidden_act", "silu");
  file.Require("attention_bias", false);
  file.Require("mlp_bias", false);
  file.Require("quantization_config", Json());

  // Defaults as in transformers' configurations, for older files leave these fields out.
  ModelConfig config;
  config.hidden = file.Integer("hidden_size");
  config.layers = file.Integer("num_hidden_layers");
  config.heads = file.Integer("num_attention_heads");
  config.kv_heads = ReadKeyValueHeads(file, family, config.heads);
  config.head_dim = file.Integer("head_dim", config.heads > 0 ? config.hidden / config.heads : 0);
  config.ffn = file.Integer("intermediate_size");
  config.vocab = file.Integer("vocab_size");
  config.max_positions =
      file.Integer("max_position_embeddings", family == Family::kLlama ? 2048 : 131072);
  config.rope_theta = ReadRopeTheta(file);
  config.rms_norm_eps = file.Number("rms_norm_eps", 1e-6);
  config.tied_embeddings = file.Boolean("tie_word_embeddings", false);
  config.window = ReadWindow(file, family);
  config.attention_dropout = file.Number("attention_dropout", 0.0);
  try {
    Validate(config);
  } catch (const UsageError& error) {
    file.Fail(error.what());
  }
  return config;
}

void WriteModelConfig(const ModelConfig& config, const std::string& folder,
                      int64_t separator_token) {
  const Family family = config.window > 0 ? Family::kMistral : Family::kLlama;
  Json json = {
      {"architectures", Json::array({std::string(Architecture(family))})},
      {"model_type", std::string(ModelType(family))},
      {"vocab_size", config.vocab},
      {"hidden_size", config.hidden},
      {"intermediate_size", config.ffn},
      {"num_hidden_layers", config.layers},
      {"num_attention_heads", config.heads},
      {"num_key_value_heads", config.kv_heads},
      {"head_dim", config.head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", config.max_positions},
      {"rope_theta", config.rope_theta},
      {"rope_scaling", nullptr},
      {"rms_norm_eps", config.rms_norm_eps},
      {"tie_word_embeddings", config.tied_embeddings},
      {"attention_bias", false},
      {"attention_dropout", config.attention_dropout},
      {"mlp_bias", false},
      {"bos_token_id", separator_token},
      {"eos_token_id", separator_token},
      {"initializer_range", 0.02},
      {"use_cache", true},
      {"torch_dtype", "float32"},
  };
  if (family == Family::kMistral) json["sliding_window"] = config.window;
  WriteTextFile(folder + "/config.json", json.dump(2) + "\n");
}

}  // namespace ringwise
