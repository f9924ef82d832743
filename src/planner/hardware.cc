#include <cmath>

#include "ringwise/error.h"
#include "ringwise/planner.h"

namespace ringwise {
namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;
constexpr double kGiB = 1024.0 * 1024 * 1024;

ComputeRate EvenRate(double flops) {
  return {.products = flops, .attention_forward = flops, .attention_backward = flops};
}

struct Figures {
  const char* name;
  double bf16_tflops;
  double f32_tflops;
  double link_gbytes;  // a second
  double memory_gib;
  const char* note;
};

// bf16 and links as in the paper's table of minimal sequence lengths; for an H100 NVLink's 900 GB/s
// both ways together. f32 is TF32 on GPUs; a TPU multiplies bf16, and XLA makes an f32 product of
// three of them.
constexpr Figures kFigures[] = {
    {"a100-nvlink", 312, 156, 300, 80, "A100 80 GB, NVLink"},
    {"a100-infiniband", 312, 156, 12.5, 80, "A100 80 GB, InfiniBand"},
    {"tpu-v3", 123, 41, 112, 32, "a chip of two cores: v3-512 is 256 devices"},
    {"tpu-v4", 275, 275.0 / 3, 268, 32, "a chip of two cores: v4-1024 is 512 devices"},
    {"tpu-v5e", 196, 196.0 / 3, 186, 16, "a chip of one core: v5e-256 is 256 devices"},
    {"h100", 989, 495, 450, 80, "H100 SXM 80 GB, NVLink"},
};

ModelConfig LlamaShape(int64_t hidden, int64_t layers, int64_t heads, int64_t ffn) {
  return {.hidden = hidden,
          .layers = layers,
          .heads = heads,
          .kv_heads = heads,
          .head_dim = hidden / heads,
          .ffn = ffn,
          .vocab = 32000,
          .max_positions = 2048};
}

void RequirePositive(const Hardware& hardware, const std::string& field, double value) {
  if (std::isfinite(value) && value > 0) return;
  throw UsageError("hardware '" + hardware.name + "': " + field +
                   " must be a number above 0, got " + std::to_string(value));
}

void RequireAtLeastZero(const Hardware& hardware, const std::string& field, double value) {
  if (std::isfinite(value) && value >= 0) return;
  throw UsageError("hardware '" + hardware.name + "': " + field +
                   " must be a number of 0 or more, got " + std::to_string(value));
}

}  // namespace

const std::vector<Hardware>& KnownHardware() {
  static const std::vector<Hardware> known = [] {
    std::vector<Hardware> all;
    for (const Figures& figures : kFigures) {
      all.push_back({.name = figures.name,
                     .f32 = EvenRate(figures.f32_tflops * kTera),
                     .bf16 = EvenRate(figures.bf16_tflops * kTera),
                     .link_bytes_per_second = figures.link_gbytes * kGiga,
                     .memory_bytes = figures.memory_gib * kGiB,
                     .note = figures.note});
    }
    return all;
  }();
  return known;
}

const std::vector<std::pair<std::string, ModelConfig>>& KnownModels() {
  static const std::vector<std::pair<std::string, ModelConfig>> known = {
      {"3b", LlamaShape(3200, 26, 32, 8640)},   {"7b", LlamaShape(4096, 32, 32, 11008)},
      {"13b", LlamaShape(5120, 40, 40, 13824)}, {"30b", LlamaShape(6656, 60, 52, 17920)},
      {"65b", LlamaShape(8192, 80, 64, 22016)},
  };
  return known;
}

void Validate(const Hardware& hardware) {
  bool any = false;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const ComputeRate& rate = hardware.rate(dtype);
    if (rate.products == 0) continue;
    any = true;
    const std::string prefix = std::string(Name(dtype)) + ".";
    RequirePositive(hardware, prefix + "products", rate.products);
    RequirePositive(hardware, prefix + "attention_forward", rate.attention_forward);
    RequirePositive(hardware, prefix + "attention_backward", rate.attention_backward);
    RequireAtLeastZero(hardware, prefix + "row_seconds", rate.row_seconds);
  }
  if (!any) throw UsageError("hardware '" + hardware.name + "' has neither f32 nor bf16 rates");
  RequirePositive(hardware, "link.bytes_per_second", hardware.link_bytes_per_second);
  RequireAtLeastZero(hardware, "link.delay_seconds", hardware.link_delay);
  RequireAtLeastZero(hardware, "link.call_seconds", hardware.call_seconds);
  RequirePositive(hardware, "memory_bytes", hardware.memory_bytes);
}

}  // namespace ringwise
