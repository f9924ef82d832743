#pragma once

#include <cstdint>
#include <optional>
#include <string>

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

// One line of metrics.jsonl: a step.
struct StepRecord {
  int64_t step = 0;  // from 1
  double loss = 0;   // nats a token, mean over all ranks
  double bits_per_byte = 0;
  int64_t tokens = 0;  // this step's
  double tokens_per_second = 0;
  double peak_flops = 0;  // operations a second that mfu refers to
  double mfu = 0;
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  double seconds = 0;        // this step's
  int64_t context = 0;
  double rope_theta = 0;
  double attention_work = 1;           // pairs of the busiest rank over the mean
  int64_t bytes_sent = 0;              // by all ranks around their rings, this step
  MemoryMeter::Reading peak_bytes;     // of the rank that holds most, since the start
  std::optional<double> heldout_loss;  // where this step was followed by an evaluation
  std::optional<double> heldout_bits_per_byte;
  std::optional<double> heldout_order_two_bits_per_byte;  // in the final record, with --order-two
  std::optional<std::string> stopped_by;                  // "SIGTERM", ...: the run is not finished
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
