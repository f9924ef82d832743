#pragma once

#include <cstdint>
#include <string>

#include "ringwise/llama.h"
#include "ringwise/model_config.h"
#include "training/checkpoint_folder.h"
#include "training/optimizer.h"
#include "training/train_state.h"

namespace ringwise {

// Saves run/checkpoints/step-N: a Hugging Face model folder (`config` has the rotary base and the
// positions), optimizer.safetensors and state.json. How, and what a crash leaves:
// checkpoint_folder.h. Returns the folder. Throws FileError.
std::string SaveCheckpoint(const std::string& run, const TrainState& state, Llama& model,
                           const ModelConfig& config, AdamW& optimizer, int64_t keep,
                           const SaveHook& hook = {});

// Weights into the model and moments into the optimizer. Throws FileError: truncated, corrupt (by
// its checksum), other shapes; what they held is then undefined.
void LoadCheckpoint(const std::string& folder, Llama& model, AdamW& optimizer);

}  // namespace ringwise
