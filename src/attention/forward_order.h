#pragma once

#include <cstdint>
#include <vector>

#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "ringwise/mask.h"
#include "ringwise/positions.h"

namespace ringwise {

// What one thread does at a time in forward: a query block of one head.
struct ForwardItem {
  int64_t query_block, batch, head;
};

// Pairs of a sequence and a kv_head are numbered batch * kv_heads + kv_head.
inline int64_t Pairs(const AttentionShape& shape) { return shape.batch * shape.kv_heads; }

// The items of forward by falling number of visible keys, so that the last to start are short.
// Heads whose masks agree are counted once.
class ForwardOrder {
 public:
  ForwardOrder(const Mask& mask, const AttentionShape& shape,
               const std::vector<RowBlock>& query_blocks, const Positions& keys);

  // Those of some pairs that see at least so many keys.
  std::vector<ForwardItem> Items(const Range& pairs, int64_t least_visible) const;

 private:
  struct Work {
    int64_t visible;
    ForwardItem first;
  };
  AttentionShape shape_;
  std::vector<Work> work_;
  // The sequences and heads that each work stands for, from its first on.
  int64_t batches_ = 1;
  int64_t heads_ = 1;
};

}  // namespace ringwise
