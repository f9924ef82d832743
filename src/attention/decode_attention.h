#pragma once

#include <cstdint>
#include <optional>

#include "attention/partial_attention.h"
#include "ringwise/context.h"
#include "ringwise/memory.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Attention of a single query position over cached keys and values, read where they lie: nothing is
// packed, for each is used once a token.
struct DecodeShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;
  DType dtype = DType::kF32;         // of the cache
  std::optional<double> scale = {};  // default head_dim^-1/2
};

class DecodeAttention {
 public:
  DecodeAttention(Context& context, const DecodeShape& shape) : context_(context), shape_(shape) {}

  // Overwrites `partial` (heads rows) with the attention of query [heads, head_dim] over key, value
  // [count, kv_heads, head_dim], contiguous, all of them visible; count 0 is legal. The cache is
  // taken in blocks whose partial results are merged in order: the same bits for any team.
  void Attend(const float* query, ConstTensorView key, ConstTensorView value,
              const PartialAttention& partial);

 private:
  template <class Element>
  void AttendBlock(const float* query, ConstTensorView key, ConstTensorView value, int64_t begin,
                   const PartialAttention& block) const;

  Context& context_;
  DecodeShape shape_;
  Buffer blocks_;  // partial results of the blocks; grows with the cache
};

}  // namespace ringwise
