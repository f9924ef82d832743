#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "attention/tile_operands.h"
#include "attention/tiling.h"

namespace ringwise {

// The key/value block of backward. Per batch and kv_head: keys, then values, each
// [kv_len][padded head_dim]. Padding to an even length, for bf16 alone, is zero.
// `Element` is const where the block is only read.
template <class Element>
class BackwardBlock {
 public:
  BackwardBlock(int64_t kv_len, int64_t kv_heads, int64_t head_dim,
                BytesOf<Element>* bytes = nullptr)
      : kv_len_(kv_len),
        kv_heads_(kv_heads),
        padded_head_dim_(RoundUp(head_dim, kRowGroup<std::remove_const_t<Element>>)),
        elements_(reinterpret_cast<Element*>(bytes)) {}

  int64_t HeadElements() const { return 2 * kv_len_ * padded_head_dim_; }

  Rows<Element> Keys(int64_t batch, int64_t kv_head, int64_t key) const {
    return {elements_ + (batch * kv_heads_ + kv_head) * HeadElements() + key * padded_head_dim_,
            padded_head_dim_};
  }
  Rows<Element> Values(int64_t batch, int64_t kv_head, int64_t key) const {
    return Keys(batch, kv_head, kv_len_ + key);
  }

 private:
  int64_t kv_len_;
  int64_t kv_heads_;
  int64_t padded_head_dim_;
  Element* elements_;
};

// The block's gradient: dk, then dv, each f32 [batch, kv_heads, kv_len, head_dim]. `Element`:
// float, const where only read.
template <class Element>
class GradientBlock {
 public:
  GradientBlock(int64_t batch, int64_t kv_heads, int64_t kv_len, int64_t head_dim,
                BytesOf<Element>* bytes)
      : kv_heads_(kv_heads),
        kv_len_(kv_len),
        head_dim_(head_dim),
        half_(batch * kv_heads * kv_len * head_dim),
        elements_(reinterpret_cast<Element*>(bytes)) {}

  Element* Keys(int64_t batch, int64_t kv_head, int64_t key) const {
    return elements_ + ((batch * kv_heads_ + kv_head) * kv_len_ + key) * head_dim_;
  }
  Element* Values(int64_t batch, int64_t kv_head, int64_t key) const {
    return Keys(batch, kv_head, key) + half_;
  }

 private:
  int64_t kv_heads_;
  int64_t kv_len_;
  int64_t head_dim_;
  int64_t half_;
  Element* elements_;
};

}  // namespace ringwise
