#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"

namespace ringwise {

// The key/value block of backward. Per batch and kv_head: keys [kv_len][padded head_dim], then
// values [kv_len][padded value_dim]. Padding to an even length, for bf16 alone, is zero.
// `Element` is const where the block is only read.
template <class Element>
class BackwardBlock {
 public:
  BackwardBlock(const AttentionShape& shape, int64_t kv_len, BytesOf<Element>* bytes = nullptr)
      : kv_len_(kv_len),
        kv_heads_(shape.kv_heads),
        padded_head_dim_(RoundUp(shape.head_dim, kRowGroup<std::remove_const_t<Element>>)),
        padded_value_dim_(RoundUp(shape.value_dim, kRowGroup<std::remove_const_t<Element>>)),
        elements_(reinterpret_cast<Element*>(bytes)) {}

  int64_t HeadElements() const { return kv_len_ * (padded_head_dim_ + padded_value_dim_); }

  Rows<Element> Keys(int64_t batch, int64_t kv_head, int64_t key) const {
    return {Head(batch, kv_head) + key * padded_head_dim_, padded_head_dim_};
  }
  Rows<Element> Values(int64_t batch, int64_t kv_head, int64_t key) const {
    return {Head(batch, kv_head) + kv_len_ * padded_head_dim_ + key * padded_value_dim_,
            padded_value_dim_};
  }

 private:
  Element* Head(int64_t batch, int64_t kv_head) const {
    return elements_ + (batch * kv_heads_ + kv_head) * HeadElements();
  }

  int64_t kv_len_;
  int64_t kv_heads_;
  int64_t padded_head_dim_;
  int64_t padded_value_dim_;
  Element* elements_;
};

// The block's gradient in f32: dk [batch, kv_heads, kv_len, head_dim], then dv [.., value_dim].
// `Element`: float, const where only read.
template <class Element>
class GradientBlock {
 public:
  GradientBlock(const AttentionShape& shape, int64_t kv_len, BytesOf<Element>* bytes = nullptr)
      : shape_(shape), kv_len_(kv_len), elements_(reinterpret_cast<Element*>(bytes)) {}

  int64_t Elements() const { return Rows() * (shape_.head_dim + shape_.value_dim); }

  Element* Keys(int64_t batch, int64_t kv_head, int64_t key) const {
    return elements_ + Row(batch, kv_head, key) * shape_.head_dim;
  }
  Element* Values(int64_t batch, int64_t kv_head, int64_t key) const {
    return elements_ + Rows() * shape_.head_dim + Row(batch, kv_head, key) * shape_.value_dim;
  }

 private:
  int64_t Rows() const { return shape_.batch * shape_.kv_heads * kv_len_; }
  int64_t Row(int64_t batch, int64_t kv_head, int64_t key) const {
    return (batch * shape_.kv_heads + kv_head) * kv_len_ + key;
  }

  AttentionShape shape_;
  int64_t kv_len_;
  Element* elements_;
};

}  // namespace ringwise
