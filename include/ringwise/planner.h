#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ringwise/dtype.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"
#include "ringwise/model_config.h"

namespace ringwise {

// Block size, memory and time of a training run on hardware that need not be at hand, by the law of
// Ring Attention [arXiv 2310.01889, section 3]. docs/planning.md derives what is counted.

// FLOPs a second of one device in one type, a multiply-add counting two, and attention as
// AttentionFlops counts it.
struct ComputeRate {
  double products = 0;            // matrix products of the layers
  double attention_forward = 0;   // the blocks of ring attention
  double attention_backward = 0;  // likewise
  // What attention takes beside that: seconds a query row and head for every shard that it meets.
  double row_seconds = 0;
};

// One device of a kind and its link to the next device of the ring.
struct Hardware {
  std::string name;
  ComputeRate f32, bf16;
  double link_bytes_per_second = 0;  // each way
  double link_delay = 0;             // seconds a message
  // Of a call on a ring, beside its steps: ranks agree on shapes, and meet.
  double call_seconds = 0;
  double memory_bytes = 0;
  std::string note;  // what a device is, where the name does not say

  const ComputeRate& rate(DType dtype) const { return dtype == DType::kF32 ? f32 : bf16; }
};

// The makers' figures: a100-nvlink, a100-infiniband, tpu-v3, tpu-v4, tpu-v5e, h100.
const std::vector<Hardware>& KnownHardware();
// 3b, 7b, 13b, 30b, 65b: the shapes of Llama's first family, with 32,000 words.
const std::vector<std::pair<std::string, ModelConfig>>& KnownModels();

// A JSON file of the form that FormatHardware writes. Attention's rates may be left out, and are
// then those of products, as may name, row_seconds, call_seconds, delay_seconds, note and one of
// the two types, which then cannot be planned for. Throws FileError naming the field.
Hardware ReadHardware(const std::string& path);
std::string FormatHardware(const Hardware& hardware);

// Throws UsageError naming the field that is not above 0 (of times beside rates: is below 0), or
// not finite.
void Validate(const Hardware& hardware);

// Where parameters, their gradients and the optimizer's moments are: whole on every device, as
// `ringwise train` has them, or each device with its part of them (FSDP).
enum class Parameters { kAuto, kReplicated, kSharded };
std::string_view Name(Parameters parameters);  // "auto", "replicated", "sharded"

struct PlanOptions {
  ModelConfig model;
  Hardware hardware;
  int64_t devices = 1;
  int64_t ring = 0;     // devices along the sequence, of which devices is a multiple; 0: all
  int64_t context = 0;  // tokens a sequence; 0: the most that fit
  int64_t batch = 1;    // sequences a step and ring
  DType dtype = DType::kBF16;
  bool causal = true;
  Layout layout = Layout::kZigzag;
  Recompute recompute = Recompute::kAttention;
  // auto: replicated if the context fits so, else sharded; without a context, what has the longer
  Parameters parameters = Parameters::kAuto;
  double efficiency = 1;  // share of the rates that compute reaches, 1e-4 to 1
  double slowest = 1;     // speed of the ring's slowest device in that of the others, 1e-4 to 1
};

// A ring is played step by step up to this size.
inline constexpr int64_t kMostPlannedRing = 4096;

// The block sizes, in tokens, from which a transfer hides under the compute beside it.
struct BlockLaw {
  // The paper's: full mask, as many kv_heads as heads, two bytes a number: F / B; and the shortest
  // sequence a device, of six such blocks.
  double paper_block = 0;
  double paper_sequence = 0;
  // With this model's kv_heads, type, mask and layout, the link's delay and attention's rate. A
  // device's shard is one block, so this is the shortest sequence a device as well.
  double block = 0;
  double backward_block = 0;  // the same of backward, whose gradients travel, too
  // What attention's forward holds of a shard, in blocks of tokens x heads x head_dim numbers; the
  // paper counts six.
  double blocks_held = 0;
};

// Bytes of one device, by the categories of the memory meter.
struct PlannedMemory {
  double parameters = 0;
  double gradients = 0;
  double optimizer = 0;
  double activations = 0;
  double ring_buffers = 0;
  double workspace = 0;

  double total() const {
    return parameters + gradients + optimizer + activations + ring_buffers + workspace;
  }
};

// A way to count: the memory at the plan's context, and the longest context whose memory fits; 0 if
// none does.
struct MemoryCount {
  PlannedMemory memory;
  int64_t largest_context = 0;
};

// Seconds of one step, the parts one after another.
struct StepTime {
  double products = 0;           // layers and output head, recomputation counted
  double attention_compute = 0;  // of the busiest rank
  double attention_wait = 0;     // transfers that do not hide, and waiting for others
  double parameter_traffic = 0;  // sums of gradients; sharded: what products do not hide

  double total() const { return products + attention_compute + attention_wait + parameter_traffic; }
};

// One layer's call of ring attention.
struct AttentionCallTime {
  double forward = 0;             // seconds
  double backward = 0;            // likewise
  double forward_efficiency = 0;  // share of all ranks' time in which they compute
  double backward_efficiency = 0;
};

enum class Limit { kCompute, kLink, kBalance, kParameterTraffic, kMemory };
std::string_view Name(Limit limit);

struct Plan {
  int64_t ring = 1;
  int64_t context = 0;
  int64_t block = 0;  // tokens of a sequence a device: the longest shard
  double parameters = 0;
  bool sharded = false;  // as chosen
  BlockLaw law;
  MemoryCount replicated, sharded_count, paper;  // the paper's: docs/planning.md
  double usable_memory = 0;                      // of the device's
  bool fits = true;
  AttentionCallTime attention;
  StepTime step;
  double tokens = 0;  // a step, of all rings
  double mfu = 0;     // model FLOPs, as docs/training.md counts them, over all devices' products
  Limit limit = Limit::kCompute;

  double tokens_per_second() const { return tokens / step.total(); }
};

// Pure: nothing is measured or read. Throws UsageError: an option out of range, the type missing in
// the hardware, a context below one token a device, parameters that leave no room for a token.
//
//   PlanOptions options{.model = KnownModels()[1].second, .hardware = KnownHardware()[0],
//                       .devices = 8};
//   MakePlan(options).law.block;
Plan MakePlan(const PlanOptions& options);

// Parameters of the model, all of them.
double ParameterCount(const ModelConfig& model);

}  // namespace ringwise
