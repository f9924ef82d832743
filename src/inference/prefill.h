#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "inference/kv_cache.h"
#include "inference/llama_weights.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/layout.h"

namespace ringwise {

// The model's forward pass over a prompt cut over a ring: fills `cache` with the keys and values of
// this rank's positions and returns the last token's hidden row, before the final norm, the same on
// every rank. One layer's weights are packed at a time, and rows go through them a block at a time.
// `prompt` (whole, on every rank) must not be empty. Collective over `ring`.
std::vector<float> Prefill(Context& context, Communicator& ring, const ModelConfig& config,
                           const LlamaWeights& weights, DType compute, Layout layout,
                           std::span<const int32_t> prompt, KeyValueCache& cache);

}  // namespace ringwise
