#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "ringwise/dtype.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"

namespace ringwise {

struct GenerateOptions {
  int64_t max_tokens = 256;         // new tokens at most
  double temperature = 0;           // 0: always the likeliest token; else logits are divided by it
  int64_t top_k = 0;                // sample among the k likeliest; 0: among all
  uint64_t seed = 0;                // of the sampling: token n is a function of (seed, n, logits)
  int32_t stop_token = 256;         // ends the text, and is not reported; negative: nothing does
  Layout layout = Layout::kZigzag;  // of the prompt over the ring
  DType compute = DType::kF32;      // of the products and of the cached keys and values
};

struct GenerateFigures {
  int64_t prompt_tokens = 0;
  int64_t new_tokens = 0;  // reported
  double prompt_seconds = 0;
  double decode_seconds = 0;
};

// Continues `prompt`. The prompt goes around the ring once (prefill); each rank then keeps the keys
// and values of its own positions, and every new token attends to all shards of that cache, the
// partial results merged in rank order. Calls `token` on rank 0 of the world with each new token as
// it comes. An empty prompt starts from the stop token (or 0). A collective call of the whole
// world; only the first data-parallel group works. Throws UsageError: a prompt token outside the
// vocabulary, a negative or non-finite option.
GenerateFigures Generate(Rank& rank, Llama& model, std::span<const int32_t> prompt,
                         const GenerateOptions& options,
                         const std::function<void(int32_t token)>& token);

}  // namespace ringwise
