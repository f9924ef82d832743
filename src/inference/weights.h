#pragma once

#include <string>
#include <vector>

#include "ringwise/classifier.h"
#include "ringwise/llama.h"

namespace ringwise {

// The weights of a model folder: model.safetensors, or the files that model.safetensors.index.json
// names.

// Writes model.safetensors (F32) and flushes it to the disk. Throws FileError.
void WriteWeights(const std::vector<Parameter>& parameters, const std::string& folder);

// Throws FileError: no such folder, or no config.json in it.
void CheckModelFolder(const std::string& folder);

// Throws FileError if the folder lacks a weight of this configuration or has it in another shape.
// Takes no memory for the model: the configuration of a corrupt folder may claim any size.
void CheckWeights(const ModelConfig& config, const std::string& folder);
void CheckWeights(const ClassifierConfig& config, const std::string& folder);

// Reads every parameter's value, converting BF16 and F16. Tensors that are no weight of their own
// are passed over: a tied output head stored beside the embedding, and the rotary frequencies that
// old files hold. Throws FileError naming the file and the tensor: missing, unexpected, of another
// shape or type; parameters may have been changed in part.
void ReadWeights(std::vector<Parameter>& parameters, const std::string& folder);

}  // namespace ringwise
