#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "attention/shard_attention.h"
#include "attention/tile_operands.h"
#include "attention/tiling.h"

namespace ringwise {

// The longest key tile: keys that are transposed together. A multiple of the register tile's rows;
// part of the block's format.
inline constexpr int64_t kKeyChunk = 384;

inline constexpr int kMostForwardPanels = 8;

// Queries that share a walk over the keys, a multiple of kPanel. The more of them, the less often a
// key tile is read from beyond the second cache: as many as leave room in it for their operands and
// outputs beside a tile, and still several blocks for every thread.
int64_t ForwardQueryBlock(const AttentionShape& shape, int64_t q_len, int threads);

// The key/value block of forward, of some consecutive pairs of a sequence and a kv_head. Of each:
//   keys    [kv_len][padded head_dim]: left factor of the scores
//   values  transposed by key tiles, as CutIntoBlocks makes them of kKeyChunk keys,
//           [value_dim][tile]: left factor of output
// Padding to an even length, for bf16 alone, is zero: products take pairs. `Element` is const where
// the block is only read.
template <class Element>
class ForwardBlock {
 public:
  static constexpr int64_t kGroup = kRowGroup<std::remove_const_t<Element>>;

  ForwardBlock(const AttentionShape& shape, int64_t first_pair, int64_t kv_len,
               BytesOf<Element>* bytes = nullptr)
      : first_pair_(first_pair),
        kv_len_(kv_len),
        kv_heads_(shape.kv_heads),
        head_dim_(shape.head_dim),
        value_dim_(shape.value_dim),
        elements_(reinterpret_cast<Element*>(bytes)) {}

  int64_t value_dim() const { return value_dim_; }
  int64_t padded_head_dim() const { return RoundUp(head_dim_, kGroup); }
  int64_t PairElements() const {
    return RoundUp(kv_len_ * (padded_head_dim() + value_dim_), kGroup);
  }

  // Rows of keys from local index `key` on.
  Rows<Element> Keys(int64_t batch, int64_t kv_head, int64_t key) const {
    return {Pair(batch, kv_head) + key * padded_head_dim(), padded_head_dim()};
  }
  // Rows are dimensions, columns the keys of the tile.
  Rows<Element> Values(int64_t batch, int64_t kv_head, const RowBlock& tile) const {
    return {Pair(batch, kv_head) + kv_len_ * padded_head_dim() + tile.begin * value_dim_,
            tile.count()};
  }

 private:
  Element* Pair(int64_t batch, int64_t kv_head) const {
    return elements_ + (batch * kv_heads_ + kv_head - first_pair_) * PairElements();
  }

  int64_t first_pair_;
  int64_t kv_len_;
  int64_t kv_heads_;
  int64_t head_dim_;
  int64_t value_dim_;
  Element* elements_;
};

}  // namespace ringwise
