#pragma once

#include <cstdint>
#include <span>

namespace ringwise {

// Chooses the next token: the likeliest at temperature 0 (the first of equals), else token t with
// probability proportional to exp(logits[t] / temperature) among the top_k likeliest (0: all).
// A pure function of its arguments: `index` numbers the tokens drawn with one seed.
// Throws Error if a logit is NaN or plus infinity.
struct SamplingOptions {
  double temperature = 0;
  int64_t top_k = 0;
  uint64_t seed = 0;
};
int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options, int64_t index);

}  // namespace ringwise
