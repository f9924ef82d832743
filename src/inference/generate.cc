#include "ringwise/generate.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <vector>

#include "inference/decoder.h"
#include "inference/sampler.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

void Check(const ModelConfig& config, std::span<const int32_t> prompt,
           const GenerateOptions& options) {
  if (!(std::isfinite(options.temperature) && options.temperature >= 0)) {
    throw UsageError(
        fmt::format("the temperature must be at least 0, got {}", options.temperature));
  }
  if (options.top_k < 0) {
    throw UsageError(fmt::format("top-k must be at least 0, got {}", options.top_k));
  }
  if (options.max_tokens < 0) {
    throw UsageError(
        fmt::format("the number of tokens must be at least 0, got {}", options.max_tokens));
  }
  for (const int32_t token : prompt) {
    if (token < 0 || token >= config.vocab) {
      throw UsageError(fmt::format(
          "the prompt has token {}, the model's vocabulary only {}: was it trained on bytes?",
          token, config.vocab));
    }
  }
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

GenerateFigures Generate(Rank& rank, Llama& model, std::span<const int32_t> prompt,
                         const GenerateOptions& options,
                         const std::function<void(int32_t token)>& token) {
  const ModelConfig& config = model.config();
  Check(config, prompt, options);
  GenerateFigures figures;
  figures.prompt_tokens = static_cast<int64_t>(prompt.size());
  if (rank.data_parallel.rank() != 0 || options.max_tokens == 0) return figures;

  // Something must come before the first token: a document begins after a separator.
  const bool stop_is_token = options.stop_token >= 0 && options.stop_token < config.vocab;
  const std::vector<int32_t> beginning{stop_is_token ? options.stop_token : 0};
  const LlamaWeights weights(config, model.parameters());
  Decoder decoder(rank.context, rank.ring, config, weights, options.compute);
  const double start = Seconds();
  std::span<const float> logits =
      decoder.Start(prompt.empty() ? beginning : prompt, options.layout);
  const double first = Seconds();
  const SamplingOptions sampling{options.temperature, options.top_k, options.seed};
  while (true) {
    int32_t next = 0;
    if (rank.ring.rank() == 0) next = SampleToken(logits, sampling, figures.new_tokens);
    rank.ring.Broadcast(std::as_writable_bytes(std::span(&next, 1)), 0);
    if (next == options.stop_token) break;
    ++figures.new_tokens;
    if (rank.world.rank() == 0 && token) token(next);
    if (figures.new_tokens == options.max_tokens) break;
    logits = decoder.Next(next);
  }
  figures.prompt_seconds = first - start;
  figures.decode_seconds = Seconds() - first;
  return figures;
}

}  // namespace ringwise
