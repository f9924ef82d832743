#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ringwise/classifier.h"

namespace ringwise {

// Calls `visit` with every parameter's name and shape, in the order of its files, making none, and
// whether weight decay applies to it.
void VisitClassifierParameters(
    const ClassifierConfig& config,
    const std::function<void(const std::string& name, const Shape& shape, bool decays)>& visit);

// The parameters of a classifier of these shapes, in that order; contents undefined.
std::vector<Parameter> MakeClassifierParameters(MemoryMeter& meter, const ClassifierConfig& config);

// Matrices [out, in] normal with variance 2 / (in + out) (Glorot and Bengio 2010), word tables with
// deviation 0.05, gains 1, biases 0; matrices that write to the residual stream are divided by
// sqrt(layers), so that many layers begin near what one would be; a function of the seed and each
// parameter's name.
void InitializeClassifier(Context& context, std::vector<Parameter>& parameters, int64_t layers,
                          uint64_t seed);

// Throw ShapeError or UsageError: not one token a row, one below `least` or outside the vocabulary;
// not one label a document, one that is no class.
void CheckTokens(std::span<const int32_t> tokens, int64_t rows, int64_t vocab, int32_t least);
void CheckLabels(const DocumentBatch& batch, int64_t classes);

}  // namespace ringwise
