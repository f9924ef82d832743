#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "ringwise/memory.h"
#include "ringwise/model_config.h"
#include "training/mesh_memory.h"

namespace ringwise {

// Floating-point operations that training on one token costs by the formula of docs/training.md: 6
// a parameter in matrix products, the output head included, and 12 layers heads head_dim keys for
// attention, with the keys that a token sees on average, itself counted half. Recomputation does
// not count.
double TrainFlopsPerToken(const ModelConfig& config, double keys);
// Those keys where no documents are hidden: half the context, or fewer within a window.
double MeanKeys(const ModelConfig& config, int64_t context);

// A number of metrics.jsonl by its key there.
struct Figure {
  std::string name;
  std::variant<int64_t, double> value;
};

// Figures that a task adds to a step's: what it measures in units of its own.
struct Figures {
  std::vector<Figure> values;
  std::string text;  // those that a person follows: "3.210 bits/byte"
};

// One line of metrics.jsonl: a step.
struct StepRecord {
  int64_t step = 0;  // from 1
  double loss = 0;   // nats a target, mean over all ranks
  Figures task;
  int64_t tokens = 0;  // this step's
  double tokens_per_second = 0;
  double peak_flops = 0;  // operations a second that mfu refers to
  double mfu = 0;
  double learning_rate = 0;
  double gradient_norm = 0;               // before clipping
  double seconds = 0;                     // this step's
  double attention_work = 1;              // pairs of the busiest rank over the mean
  int64_t bytes_sent = 0;                 // by all ranks around their rings, this step
  MemoryMeter::Reading peak_bytes;        // of the rank that holds most, since the start
  Figures evaluation;                     // where this step was followed by one
  Figures conclusion;                     // in the final record
  std::optional<std::string> stopped_by;  // "SIGTERM", ...: the run is not finished
  bool final = false;
  std::optional<MemoryGrowth> growth;  // in the final record: since before the first step
};

std::string ToJson(const StepRecord& record);

// metrics.jsonl, appended to, each record flushed to the system at once. Throws FileError.
class MetricsFile {
 public:
  explicit MetricsFile(const std::string& path);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  void Append(const std::string& line);

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace ringwise
