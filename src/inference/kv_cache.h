#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/context.h"
#include "ringwise/model_config.h"
#include "ringwise/tensor.h"

namespace ringwise {

// One rank's share of the keys and values of every layer, in the compute type, rows [kv_heads,
// head_dim] in the order they were added. Which positions they have does not matter to a token that
// sees them all.
class KeyValueCache {
 public:
  KeyValueCache(Context& context, const ModelConfig& config, DType dtype);

  // Makes room for `rows` in every layer and forgets what was there. The rows start undefined.
  void Reset(int64_t rows);

  int64_t rows() const { return rows_; }
  // [rows, kv_heads, head_dim]
  TensorView key(int64_t layer) { return Rows(layers_[static_cast<size_t>(layer)].key); }
  TensorView value(int64_t layer) { return Rows(layers_[static_cast<size_t>(layer)].value); }

  // Adds a row to every layer, undefined until SetLast. Amortised constant time.
  void AddRow();
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
  int64_t rows_ = 0;
  int64_t capacity_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace ringwise
