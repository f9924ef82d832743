#include "attention/attention_checks.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>
#include <utility>

#include "ringwise/error.h"

namespace ringwise {

void CheckAttentionShape(const AttentionShape& shape) {
  for (const auto& [name, dim] :
       {std::pair{"head_dim", shape.head_dim}, std::pair{"value head_dim", shape.value_dim}}) {
    if (dim < 1 || dim > 256) {
      throw ShapeError(fmt::format("attention: {} must be 1 to 256, found {}", name, dim));
    }
  }
  if (shape.batch < 0 || shape.heads < 1 || shape.kv_heads < 1 ||
      shape.heads % shape.kv_heads != 0) {
    throw ShapeError(fmt::format(
        "attention: kv_heads must divide heads, both 1 or more; found {} kv_heads and {} heads",
        shape.kv_heads, shape.heads));
  }
}

AttentionShape CheckedShapeOf(const AttentionInputs& inputs) {
  for (const auto& [name, view] : {std::pair{"query", inputs.query}, std::pair{"key", inputs.key},
                                   std::pair{"value", inputs.value}}) {
    if (view.shape.rank() == 4) continue;
    throw ShapeError(fmt::format("attention: {} must be [batch, length, heads, head_dim], found {}",
                                 name, view.shape.ToString()));
  }
  const AttentionShape shape{.batch = inputs.query.shape[0],
                             .heads = inputs.query.shape[2],
                             .kv_heads = inputs.key.shape[2],
                             .head_dim = inputs.query.shape[3],
                             .value_dim = inputs.value.shape[3],
                             .dtype = inputs.query.dtype};
  CheckAttentionShape(shape);
  return shape;
}

void CheckShape(const char* name, const ConstTensorView& view, const Shape& expected) {
  if (!(view.shape == expected)) {
    throw ShapeError(fmt::format("attention: {} must be {}, found {}", name, expected.ToString(),
                                 view.shape.ToString()));
  }
}

void CheckQueryRows(const char* name, const ConstTensorView& view, const AttentionShape& shape,
                    int64_t q_len, int64_t dim) {
  CheckShape(name, view, {shape.batch, q_len, shape.heads, dim});
}

void CheckKeyRows(const char* name, const ConstTensorView& view, const AttentionShape& shape,
                  int64_t kv_len, int64_t dim) {
  CheckShape(name, view, {shape.batch, kv_len, shape.kv_heads, dim});
}

void CheckDType(const char* name, const ConstTensorView& view, DType dtype) {
  if (view.dtype != dtype) {
    throw ShapeError(
        fmt::format("attention: {} must be {}, found {}", name, Name(dtype), Name(view.dtype)));
  }
}

void CheckKeyValue(const ConstTensorView& key, const ConstTensorView& value,
                   const AttentionShape& shape, int64_t kv_len) {
  CheckKeyRows("key", key, shape, kv_len, shape.head_dim);
  CheckKeyRows("value", value, shape, kv_len, shape.value_dim);
  CheckDType("key", key, shape.dtype);
  CheckDType("value", value, shape.dtype);
}

void CheckLogSumExp(const char* name, const ConstTensorView& view, const AttentionShape& shape,
                    int64_t q_len) {
  CheckShape(name, view, {shape.batch, shape.heads, q_len});
  CheckDType(name, view, DType::kF32);
}

void CheckForward(const AttentionShape& shape, const ConstTensorView& query, int64_t q_len,
                  const AttentionOutputs& outputs) {
  CheckAttentionShape(shape);
  CheckQueryRows("query", query, shape, q_len, shape.head_dim);
  CheckDType("query", query, shape.dtype);
  CheckQueryRows("output", outputs.output, shape, q_len, shape.value_dim);
  CheckLogSumExp("logsumexp", outputs.logsumexp, shape, q_len);
}

void CheckSaved(const AttentionSaved& saved, const AttentionShape& shape, int64_t q_len) {
  CheckQueryRows("output", saved.output, shape, q_len, shape.value_dim);
  CheckQueryRows("output gradient", saved.output_gradient, shape, q_len, shape.value_dim);
  CheckDType("output gradient", saved.output_gradient, shape.dtype);
  CheckLogSumExp("logsumexp", saved.logsumexp, shape, q_len);
  if (saved.logsumexp_gradient) {
    CheckLogSumExp("logsumexp gradient", *saved.logsumexp_gradient, shape, q_len);
  }
}

double Scale(const AttentionShape& shape, const AttentionOptions& options) {
  return options.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

float ScaleToBase2(const AttentionShape& shape, const AttentionOptions& options) {
  return static_cast<float>(Scale(shape, options) * std::numbers::log2e);
}

}  // namespace ringwise
