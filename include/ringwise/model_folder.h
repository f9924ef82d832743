#pragma once

#include <memory>
#include <string>

#include "ringwise/context.h"
#include "ringwise/dtype.h"
#include "ringwise/llama.h"

namespace ringwise {

// Models on disk are Hugging Face folders: config.json, weights in safetensors (one file, or
// several with model.safetensors.index.json), tokenizer files.

// Writes config.json, model.safetensors (f32) and the byte tokenizer's files into `folder`, made if
// missing, and flushes them to the disk. `config` is the model's, but rope_theta and max_positions
// may differ, for a context schedule changes them. Not atomic by itself; not collective: every rank
// holds all weights, so one rank saves. Throws FileError with the system's reason.
void SaveModel(Llama& model, const ModelConfig& config, const std::string& folder);

// A model with the folder's shapes and weights, which may be stored in F32, BF16 or F16. Not
// collective. Throws FileError naming the folder, and the tensor where one is missing, unexpected,
// or of another shape or type than the config says.
std::unique_ptr<Llama> LoadModel(Context& context, const std::string& folder, DType compute);

// The weights alone, into a model that exists: the same errors, and where the folder's config.json
// describes other shapes than the model's. rope_theta and max_positions may differ.
void LoadWeights(Llama& model, const std::string& folder);

}  // namespace ringwise
