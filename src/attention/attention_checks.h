#pragma once

#include "attention/shard_attention.h"

namespace ringwise {

// Throw ShapeError saying which argument, what was expected and what was found.
void CheckAttentionShape(const AttentionShape& shape);
// The shape that the inputs' extents say, checked by itself; lengths, and whether key and value
// agree with it, are not.
AttentionShape CheckedShapeOf(const AttentionInputs& inputs);
void CheckShape(const char* name, const ConstTensorView& view, const Shape& expected);
// Rows of queries [batch, q_len, heads, dim] and of keys [batch, kv_len, kv_heads, dim].
void CheckQueryRows(const char* name, const ConstTensorView& view, const AttentionShape& shape,
                    int64_t q_len, int64_t dim);
void CheckKeyRows(const char* name, const ConstTensorView& view, const AttentionShape& shape,
                  int64_t kv_len, int64_t dim);
void CheckDType(const char* name, const ConstTensorView& view, DType dtype);
// Both of the shape's type.
void CheckKeyValue(const ConstTensorView& key, const ConstTensorView& value,
                   const AttentionShape& shape, int64_t kv_len);
// [batch, heads, q_len], f32.
void CheckLogSumExp(const char* name, const ConstTensorView& view, const AttentionShape& shape,
                    int64_t q_len);
// All of the shape itself, the query and the outputs.
void CheckForward(const AttentionShape& shape, const ConstTensorView& query, int64_t q_len,
                  const AttentionOutputs& outputs);
void CheckSaved(const AttentionSaved& saved, const AttentionShape& shape, int64_t q_len);

// scale * log2(e): scores to base 2.
float ScaleToBase2(const AttentionShape& shape, const AttentionOptions& options);
double Scale(const AttentionShape& shape, const AttentionOptions& options);

}  // namespace ringwise
