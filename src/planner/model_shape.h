#pragma once

#include "ringwise/planner.h"

// A model's sizes as real numbers: those of large models on many devices do not fit 64-bit
// products.
namespace ringwise {

struct ModelShape {
  explicit ModelShape(const ModelConfig& model)
      : hidden(static_cast<double>(model.hidden)),
        layers(static_cast<double>(model.layers)),
        heads(static_cast<double>(model.heads)),
        query(static_cast<double>(model.heads * model.head_dim)),
        key(static_cast<double>(model.kv_heads * model.head_dim)),
        ffn(static_cast<double>(model.ffn)),
        vocab(static_cast<double>(model.vocab)),
        parameters(ParameterCount(model)),
        matrix_parameters(static_cast<double>(MatrixParameters(model))),
        layer_parameters(2 * hidden * (query + key) + 3 * hidden * ffn) {}

  double hidden, layers, heads;
  double query, key;  // heads, or kv_heads, times head_dim
  double ffn, vocab;
  double parameters;         // all of them
  double matrix_parameters;  // as MatrixParameters
  double layer_parameters;   // of them, of one layer
};

}  // namespace ringwise
