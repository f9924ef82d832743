#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ringwise/llama.h"
#include "ringwise/safetensors.h"

// What probes of models read from and write to safetensors files.
namespace ringwise {

// The elements of an I32 or F32 entry; a copy, since a file's bytes need not be aligned.
template <class Element>
std::vector<Element> Elements(const SafetensorsEntry& entry) {
  std::vector<Element> values(entry.bytes.size() / sizeof(Element));
  std::memcpy(values.data(), entry.bytes.data(), entry.bytes.size());
  return values;
}

// An entry of f32 that refers to `values`.
inline NamedBytes Named(const std::string& name, std::vector<int64_t> shape,
                        const std::vector<float>& values) {
  return {name, {"F32", std::move(shape), std::as_bytes(std::span(values))}};
}

// A copy of the parameters' gradients, to be written after the model is gone.
struct GradientCopies {
  std::vector<std::string> names;
  std::vector<std::vector<int64_t>> shapes;
  std::vector<std::vector<float>> values;

  explicit GradientCopies(std::span<const Parameter> parameters) {
    for (const Parameter& parameter : parameters) {
      const float* gradient = parameter.gradient.data<float>();
      names.push_back(parameter.name);
      values.emplace_back(gradient, gradient + parameter.gradient.elements());
      std::vector<int64_t>& shape = shapes.emplace_back();
      for (int axis = 0; axis < parameter.value.shape().rank(); ++axis) {
        shape.push_back(parameter.value.shape()[axis]);
      }
    }
  }
  void AppendTo(std::vector<NamedBytes>& tensors) const {
    for (size_t i = 0; i < names.size(); ++i) {
      tensors.push_back(Named(names[i], shapes[i], values[i]));
    }
  }
};

}  // namespace ringwise
