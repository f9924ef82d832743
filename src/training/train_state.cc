#include "training/train_state.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/file_io.h"
#include "ringwise/error.h"

namespace ringwise {
namespace fs = std::filesystem;

namespace {

constexpr int kFormat = 1;
constexpr const char* kStateFile = "state.json";

std::string StatePath(const std::string& folder) {
  return (fs::path(folder) / kStateFile).string();
}

nlohmann::json ReadStateFile(const std::string& folder) {
  const std::string path = StatePath(folder);
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw FileError(fmt::format(
        "{} is no checkpoint of `ringwise train`: it has no {} (to start a new run from "
        "a model folder, use --init)",
        folder, kStateFile));
  }
  nlohmann::json json = nlohmann::json::parse(ReadTextFile(path), nullptr, false);
  if (!json.is_object()) throw FileError(fmt::format("{}: corrupt: not a JSON object", path));
  if (json.value("format", 0) != kFormat) {
    throw FileError(
        fmt::format("{}: expected \"format\": {}, found another: written by another "
                    "version of ringwise, or another program",
                    path, kFormat));
  }
  return json;
}

}  // namespace

void WriteTrainState(const std::string& folder, const TrainState& state,
                     const std::string& checksum) {
  const nlohmann::ordered_json json = {{"format", kFormat},
                                       {"step", state.step},
                                       {"tokens", state.tokens},
                                       {"phase", state.phase},
                                       {"phase_step", state.phase_step},
                                       {"phase_sequences", state.phase_sequences},
                                       {"seconds", state.seconds},
                                       {"rope_base", state.rope_base},
                                       {"rope_reference", state.rope_reference},
                                       {"seed", state.seed},
                                       {"train_tokens", state.train_tokens},
                                       {"data_fingerprint", state.data_fingerprint},
                                       {"checksum", checksum}};
  WriteTextFile(StatePath(folder), json.dump(2) + "\n");
}

TrainState ReadTrainState(const std::string& folder) {
  try {
    const nlohmann::json json = ReadStateFile(folder);
    TrainState state;
    json.at("step").get_to(state.step);
    json.at("tokens").get_to(state.tokens);
    json.at("phase").get_to(state.phase);
    json.at("phase_step").get_to(state.phase_step);
    json.at("phase_sequences").get_to(state.phase_sequences);
    json.at("seconds").get_to(state.seconds);
    json.at("rope_base").get_to(state.rope_base);
    json.at("rope_reference").get_to(state.rope_reference);
    json.at("seed").get_to(state.seed);
    json.at("train_tokens").get_to(state.train_tokens);
    json.at("data_fingerprint").get_to(state.data_fingerprint);
    if (state.step < 0 || state.phase < 0 || state.phase_step < 0 || state.phase_sequences < 0) {
      throw FileError(fmt::format("{}: corrupt: a count is negative", StatePath(folder)));
    }
    return state;
  } catch (const nlohmann::json::exception& error) {
    throw FileError(fmt::format("{}: corrupt: {}", StatePath(folder), error.what()));
  }
}

std::string ReadChecksum(const std::string& folder) {
  const nlohmann::json json = ReadStateFile(folder);
  const auto checksum = json.find("checksum");
  if (checksum == json.end() || !checksum->is_string()) {
    throw FileError(fmt::format("{}: corrupt: it has no checksum", StatePath(folder)));
  }
  return *checksum;
}

}  // namespace ringwise
