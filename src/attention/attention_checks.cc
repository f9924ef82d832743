#include "attention/attention_checks.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "ringwise/error.h"

namespace ringwise {

void CheckAttentionShape(const AttentionShape& shape) {
  if (shape.head_dim < 1 || shape.head_dim > 256) {
    throw ShapeError(fmt::format("attention: head_dim must be 1 to 256, found {}", shape.head_dim));
  }
  if (shape.batch < 0 || shape.heads < 1 || shape.kv_heads < 1 ||
      shape.heads % shape.kv_heads != 0) {
    throw ShapeError(fmt::format(
        "attention: kv_heads must divide heads, both 1 or more; found {} kv_heads and {} heads",
        shape.kv_heads, shape.heads));
  }
}

void CheckRows(const char* name, const ConstTensorView& view, const AttentionShape& shape,
               int64_t length, int64_t heads) {
  const Shape expected{shape.batch, length, heads, shape.head_dim};
  if (!(view.shape == expected)) {
    throw ShapeError(fmt::format("attention: {} must be {}, found {}", name, expected.ToString(),
                                 view.shape.ToString()));
  }
}

void CheckDType(const char* name, const ConstTensorView& view, DType dtype) {
  if (view.dtype != dtype) {
    throw ShapeError(
        fmt::format("attention: {} must be {}, found {}", name, Name(dtype), Name(view.dtype)));
  }
}

void CheckKeyValue(const ConstTensorView& key, const ConstTensorView& value,
                   const AttentionShape& shape, int64_t kv_len) {
  CheckRows("key", key, shape, kv_len, shape.kv_heads);
  CheckRows("value", value, shape, kv_len, shape.kv_heads);
  CheckDType("key", key, shape.dtype);
  CheckDType("value", value, shape.dtype);
}

void CheckLogSumExp(const ConstTensorView& view, const AttentionShape& shape, int64_t q_len) {
  const Shape expected{shape.batch, shape.heads, q_len};
  if (!(view.shape == expected)) {
    throw ShapeError(fmt::format("attention: logsumexp must be {}, found {}", expected.ToString(),
                                 view.shape.ToString()));
  }
  CheckDType("logsumexp", view, DType::kF32);
}

double Scale(const AttentionShape& shape, const AttentionOptions& options) {
  return options.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

float ScaleToBase2(const AttentionShape& shape, const AttentionOptions& options) {
  return static_cast<float>(Scale(shape, options) * std::numbers::log2e);
}

}  // namespace ringwise
