#include "inference/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <system_error>

#include "formats/file_io.h"
#include "ringwise/error.h"
#include "ringwise/safetensors.h"
#include "transformer/classifier_parameters.h"
#include "transformer/parameters.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeights = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";

std::string Shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  }
  return text + "]";
}

std::vector<int64_t> Extents(const Shape& shape) {
  std::vector<int64_t> extents;
  extents.reserve(static_cast<size_t>(shape.rank()));
  for (int axis = 0; axis < shape.rank(); ++axis) extents.push_back(shape[axis]);
  return extents;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1f ? 0xffu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

// Element by element through memcpy: a foreign file need not be aligned.
template <class Stored, class Convert>
void ConvertAll(std::span<const std::byte> bytes, float* values, const Convert& convert) {
  for (size_t i = 0; i < bytes.size() / sizeof(Stored); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    values[i] = convert(stored);
  }
}

// The files that hold the folder's weights.
std::vector<std::string> WeightFiles(const std::string& folder) {
  const std::string single = fmt::format("{}/{}", folder, kWeights);
  const std::string index = fmt::format("{}/{}", folder, kIndex);
  if (fs::exists(single)) return {single};
  if (!fs::exists(index)) {
    throw FileError(fmt::format("{}: neither {} nor {} in it; is it a model folder?", folder,
                                kWeights, kIndex));
  }
  std::set<std::string> files;
  try {
    const auto json = nlohmann::json::parse(ReadTextFile(index));
    for (const auto& [name, file] : json.at("weight_map").items()) {
      const auto text = file.get<std::string>();
      if (text.find('/') != std::string::npos || text.find('\0') != std::string::npos) {
        throw FileError(fmt::format("{}: {} is outside the folder", index, Quoted(text)));
      }
      files.insert(fmt::format("{}/{}", folder, text));
    }
  } catch (const nlohmann::json::exception&) {
    throw FileError(index + ": corrupt: expected {\"weight_map\": {tensor: file, ...}}");
  }
  return {files.begin(), files.end()};
}

bool MayBePassedOver(std::string_view name) {
  return name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
}

void CheckShape(const std::string& name, const Shape& shape, const std::vector<int64_t>& stored,
                const std::string& path) {
  const std::vector<int64_t> expected = Extents(shape);
  if (stored == expected) return;
  throw FileError(fmt::format("{}: tensor {} has shape {}, the configuration needs {}", path,
                              Quoted(name), Shown(stored), Shown(expected)));
}

// The names and shapes of a folder's weights.
class StoredWeights {
 public:
  explicit StoredWeights(const std::string& folder) : folder_(folder) {
    for (const std::string& path : WeightFiles(folder)) {
      const SafetensorsFile file(path);
      for (const auto& [name, entry] : file.entries()) weights_[name] = {path, entry.shape};
    }
  }

  // Throws FileError: missing, or of another shape.
  void Require(const std::string& name, const Shape& shape) const {
    const auto found = weights_.find(name);
    if (found == weights_.end()) {
      throw FileError(fmt::format("{}: tensor {} is missing: the configuration needs it as {}",
                                  folder_, Quoted(name), shape.ToString()));
    }
    CheckShape(name, shape, found->second.shape, found->second.path);
  }

 private:
  struct Weight {
    std::string path;
    std::vector<int64_t> shape;
  };
  std::string folder_;
  std::map<std::string, Weight> weights_;
};

void ReadOne(Parameter& parameter, const SafetensorsEntry& entry, const std::string& path) {
  CheckShape(parameter.name, parameter.value.shape(), entry.shape, path);
  float* values = parameter.value.data<float>();
  if (entry.dtype == "F32") {
    if (!entry.bytes.empty()) std::memcpy(values, entry.bytes.data(), entry.bytes.size());
  } else if (entry.dtype == "BF16") {
    ConvertAll<uint16_t>(entry.bytes, values, [](uint16_t bits) {
      return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    });
  } else if (entry.dtype == "F16") {
    ConvertAll<uint16_t>(entry.bytes, values, HalfToFloat);
  } else {
    throw FileError(fmt::format("{}: tensor {} is stored as {}, expected F32, BF16 or F16", path,
                                Quoted(parameter.name), entry.dtype));
  }
}

}  // namespace

void WriteWeights(const std::vector<Parameter>& parameters, const std::string& folder) {
  std::vector<NamedBytes> tensors;
  tensors.reserve(parameters.size());
  for (const Parameter& parameter : parameters) {
    const std::span<const float> values(parameter.value.data<float>(),
                                        static_cast<size_t>(parameter.value.elements()));
    tensors.push_back(
        {parameter.name, {"F32", Extents(parameter.value.shape()), std::as_bytes(values)}});
  }
  // transformers refuses files that do not say which framework's layout they have.
  WriteSafetensors(fmt::format("{}/{}", folder, kWeights), tensors, {{"format", "pt"}});
}

void CheckModelFolder(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) throw FileError(folder + ": no such model folder");
  if (fs::exists(fs::path(folder) / "config.json", error)) return;
  const fs::path latest = fs::path(folder) / "checkpoints" / "latest";
  throw FileError(folder + ": not a model folder: no config.json in it" +
                  (fs::exists(latest, error) ? "; did you mean " + latest.string() + "?" : ""));
}

void CheckWeights(const ModelConfig& config, const std::string& folder) {
  const StoredWeights stored(folder);
  VisitParameters(
      config, [&](const std::string& name, const Shape& shape) { stored.Require(name, shape); });
}

void CheckWeights(const ClassifierConfig& config, const std::string& folder) {
  const StoredWeights stored(folder);
  VisitClassifierParameters(config, [&](const std::string& name, const Shape& shape,
                                        bool /*decays*/) { stored.Require(name, shape); });
}

void ReadWeights(std::vector<Parameter>& parameters, const std::string& folder) {
  std::map<std::string_view, Parameter*> missing;
  for (Parameter& parameter : parameters) missing.emplace(parameter.name, &parameter);
  for (const std::string& path : WeightFiles(folder)) {
    const SafetensorsFile file(path);
    for (const auto& [name, entry] : file.entries()) {
      const auto found = missing.find(name);
      if (found != missing.end()) {
        ReadOne(*found->second, entry, path);
        missing.erase(found);
      } else if (!MayBePassedOver(name)) {
        throw FileError(fmt::format(
            "{}: unexpected tensor {}: the configuration has no such weight", path, Quoted(name)));
      }
    }
  }
  if (!missing.empty()) {
    throw FileError(
        fmt::format("{}: tensor {} is missing{}", folder, Quoted(missing.begin()->first),
                    missing.size() > 1 ? fmt::format(", and {} others", missing.size() - 1) : ""));
  }
}

}  // namespace ringwise
