#pragma once

#include <cstdint>
#include <string>

#include "training/optimizer.h"
#include "training/train_state.h"
#include "training/train_task.h"

namespace ringwise {

// Saves run/checkpoints/step-N: the task's model folder, optimizer.safetensors and state.json. How,
// and what a crash leaves: checkpoint_folder.h. Returns the folder. Throws FileError.
std::string SaveCheckpoint(const std::string& run, const TrainState& state, TrainTask& task,
                           AdamW& optimizer, int64_t keep);

// Weights into the model and moments into the optimizer. Throws FileError: truncated, corrupt (by
// its checksum), other shapes; what they held is then undefined.
void LoadCheckpoint(const std::string& folder, TrainTask& task, AdamW& optimizer);

}  // namespace ringwise
