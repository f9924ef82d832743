#include "ringwise/model_config.h"

#include <cmath>
#include <string>

#include "ringwise/error.h"

namespace ringwise {

void Validate(const ModelConfig& config) {
  const struct {
    const char* name;
    int64_t value;
  } sizes[] = {{"hidden", config.hidden},     {"layers", config.layers},
               {"heads", config.heads},       {"kv_heads", config.kv_heads},
               {"head_dim", config.head_dim}, {"ffn", config.ffn},
               {"vocab", config.vocab},       {"max_positions", config.max_positions}};
  // With the bound on all matrices below, every product here and elsewhere is far from overflow.
  constexpr int64_t kLargest = int64_t{1} << 30;
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > kLargest) {
      throw UsageError(std::string(size.name) + " must be from 1 to 2^30, got " +
                       std::to_string(size.value));
    }
  }
  if (config.heads % config.kv_heads != 0) {
    throw UsageError("heads must be a multiple of kv_heads, got " + std::to_string(config.heads) +
                     " heads and " + std::to_string(config.kv_heads) + " kv_heads");
  }
  constexpr int64_t kLargestHeadDim = 256;
  if (config.head_dim % 2 != 0 || config.head_dim > kLargestHeadDim) {
    throw UsageError("head_dim must be even and at most 256, got " +
                     std::to_string(config.head_dim));
  }
  if (config.window < 0 || config.window > kLargest) {
    throw UsageError("window must be from 0 (none) to 2^30, got " + std::to_string(config.window));
  }
  if (!(config.attention_dropout >= 0 && config.attention_dropout < 1)) {
    throw UsageError("attention_dropout must be in [0, 1), got " +
                     std::to_string(config.attention_dropout));
  }
  const auto real = [](int64_t size) { return static_cast<double>(size); };
  const double parameters =
      real(config.layers) * real(config.hidden) *
          (2 * real(config.head_dim) * (real(config.heads) + real(config.kv_heads)) +
           3 * real(config.ffn)) +
      real(config.hidden) * real(config.vocab);
  if (parameters > 0x1p50) {
    throw UsageError(
        "hidden, layers, heads, head_dim, ffn and vocab must give at most 2^50 "
        "parameters, got " +
        std::to_string(parameters));
  }
  if (!(std::isfinite(config.rope_theta) && config.rope_theta > 0)) {
    throw UsageError("rope_theta must be positive, got " + std::to_string(config.rope_theta));
  }
  if (!(std::isfinite(config.rms_norm_eps) && config.rms_norm_eps >= 0)) {
    throw UsageError("rms_norm_eps must not be negative, got " +
                     std::to_string(config.rms_norm_eps));
  }
}

int64_t MatrixParameters(const ModelConfig& config) {
  const int64_t attention = config.hidden * config.head_dim * 2 * (config.heads + config.kv_heads);
  const int64_t feed_forward = 3 * config.hidden * config.ffn;
  return config.layers * (attention + feed_forward) + config.hidden * config.vocab;
}

}  // namespace ringwise
