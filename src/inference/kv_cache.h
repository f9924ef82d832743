#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/context.h"
#include "ringwise/model_config.h"
#include "ringwise/positions.h"
#include "ringwise/tensor.h"

namespace ringwise {

// One rank's share of the keys and values of every layer, in the compute type, rows [kv_heads,
// head_dim] in the order of their positions.
class KeyValueCache {
 public:
  KeyValueCache(Context& context, const ModelConfig& config, DType dtype);

  // Makes room for rows at these positions in every layer and forgets what was there. The rows
  // start undefined.
  void Reset(Positions positions);

  int64_t rows() const { return rows_; }
  // The rows before it have positions before `position`.
  int64_t FirstRowFrom(int64_t position) const;
  // [rows, kv_heads, head_dim]
  TensorView key(int64_t layer) { return Rows(layers_[static_cast<size_t>(layer)].key); }
  TensorView value(int64_t layer) { return Rows(layers_[static_cast<size_t>(layer)].value); }

  // Adds a row to every layer, undefined until SetLast, at a position after all others. Amortised
  // constant time.
  void AddRow(int64_t position);
  // The last row of a layer: key, value [kv_heads * head_dim], rounded to the cache's type.
  void SetLast(int64_t layer, const float* key, const float* value);

 private:
  struct Layer {
    Tensor key, value;  // [capacity, kv_heads, head_dim]
  };
  TensorView Rows(Tensor& tensor) const { return tensor.view().Slice(0, 0, rows_); }
  void Grow(Tensor& tensor);

  Context& context_;
  int64_t kv_heads_;
  int64_t head_dim_;
  DType dtype_;
  Positions positions_;  // of the rows, ascending
  int64_t rows_ = 0;
  int64_t capacity_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace ringwise
