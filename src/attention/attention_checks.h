#pragma once

#include "attention/shard_attention.h"

namespace ringwise {

// Throw ShapeError saying which argument, what was expected and what was found.
void CheckAttentionShape(const AttentionShape& shape);
// A tensor of rows [batch, length, heads, head_dim].
void CheckRows(const char* name, const ConstTensorView& view, const AttentionShape& shape,
               int64_t length, int64_t heads);
void CheckDType(const char* name, const ConstTensorView& view, DType dtype);
// Both rows [batch, kv_len, kv_heads, head_dim] of the shape's type.
void CheckKeyValue(const ConstTensorView& key, const ConstTensorView& value,
                   const AttentionShape& shape, int64_t kv_len);
// [batch, heads, q_len], f32.
void CheckLogSumExp(const ConstTensorView& view, const AttentionShape& shape, int64_t q_len);

// scale * log2(e): scores to base 2.
float ScaleToBase2(const AttentionShape& shape, const AttentionOptions& options);
double Scale(const AttentionShape& shape, const AttentionOptions& options);

}  // namespace ringwise
