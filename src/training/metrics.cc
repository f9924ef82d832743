#include "training/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "ringwise/error.h"

namespace ringwise {

double TrainFlopsPerToken(const ModelConfig& config, double keys) {
  const auto attention =
      12.0 * static_cast<double>(config.layers * config.heads * config.head_dim) * keys;
  return 6.0 * static_cast<double>(MatrixParameters(config)) + attention;
}

double MeanKeys(const ModelConfig& config, int64_t context) {
  const auto all = static_cast<double>(context);
  const auto window = config.window > 0 ? std::min(static_cast<double>(config.window), all) : all;
  return window - window * (window - 1) / (2 * all) - 0.5;
}

std::string ToJson(const StepRecord& record) {
  nlohmann::ordered_json peak;
  for (int c = 0; c < kMemoryCategories; ++c) {
    peak[std::string(Name(static_cast<MemoryCategory>(c)))] = record.peak_bytes.bytes[c];
  }
  peak["working"] = record.peak_bytes.working;
  peak["total"] = record.peak_bytes.total;
  peak["largest_allocation"] = record.peak_bytes.largest_allocation;
  nlohmann::ordered_json json;
  const auto add = [&](const Figures& figures) {
    for (const Figure& figure : figures.values) {
      std::visit([&](const auto number) { json[figure.name] = number; }, figure.value);
    }
  };
  json["step"] = record.step;
  json["loss"] = record.loss;
  add(record.task);
  json["tokens"] = record.tokens;
  json["tokens_per_second"] = record.tokens_per_second;
  json["mfu"] = record.mfu;
  json["peak_flops"] = record.peak_flops;
  json["learning_rate"] = record.learning_rate;
  json["gradient_norm"] = record.gradient_norm;
  json["seconds"] = record.seconds;
  json["attention_work"] = record.attention_work;
  json["bytes_sent"] = record.bytes_sent;
  json["peak_bytes"] = peak;
  add(record.evaluation);
  add(record.conclusion);
  if (record.stopped_by) json["stopped_by"] = *record.stopped_by;
  if (record.growth) {
    json["resident_growth"] = record.growth->resident;
    json["metered_growth"] = record.growth->metered;
  }
  if (record.final) json["final"] = true;
  return json.dump();
}

MetricsFile::MetricsFile(const std::string& path) : path_(path) {
  descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    throw FileError(
        fmt::format("{}: cannot write: {}", path, std::system_category().message(errno)));
  }
}

MetricsFile::~MetricsFile() { close(descriptor_); }

void MetricsFile::Append(const std::string& line) {
  const std::string text = line + "\n";
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = write(descriptor_, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      throw FileError(
          fmt::format("{}: cannot write: {}", path_, std::system_category().message(errno)));
    }
    written += static_cast<size_t>(count);
  }
}

}  // namespace ringwise
