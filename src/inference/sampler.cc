#include "inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

// Names this use of randomness, so that it does not repeat another's with the same seed.
constexpr uint64_t kSamplerKey = 0x73616d706c657231;

}  // namespace

int32_t SampleToken(std::span<const float> logits, const SamplingOptions& options, int64_t index) {
  for (const float logit : logits) {
    if (std::isnan(logit) || logit == std::numeric_limits<float>::infinity()) {
      throw Error("the model's logits are not finite: its weights are broken, or overflowed");
    }
  }
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (logits.empty() || *likeliest == -std::numeric_limits<float>::infinity()) {
    throw Error("the model's logits are all minus infinity: its weights are broken, or overflowed");
  }
  if (options.temperature == 0) return static_cast<int32_t>(likeliest - logits.begin());

  std::vector<int32_t> tokens(logits.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    const float logit_a = logits[static_cast<size_t>(a)];
    const float logit_b = logits[static_cast<size_t>(b)];
    return logit_a != logit_b ? logit_a > logit_b : a < b;
  };
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(tokens.size())) {
    const auto end = tokens.begin() + options.top_k;
    std::nth_element(tokens.begin(), end, tokens.end(), likelier);
    tokens.erase(end, tokens.end());
  }
  std::sort(tokens.begin(), tokens.end(), likelier);

  std::vector<double> sums;
  sums.reserve(tokens.size());
  double sum = 0;
  for (const int32_t token : tokens) {
    const double below = static_cast<double>(logits[static_cast<size_t>(token)]) - *likeliest;
    sum += std::exp(below / options.temperature);
    sums.push_back(sum);
  }
  const double drawn =
      sum * Random(options.seed ^ kSamplerKey, static_cast<uint64_t>(index)).Uniform();
  const auto chosen = std::upper_bound(sums.begin(), sums.end() - 1, drawn) - sums.begin();
  return tokens[static_cast<size_t>(chosen)];
}

}  // namespace ringwise
