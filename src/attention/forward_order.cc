#include "attention/forward_order.h"

#include <algorithm>

namespace ringwise {

ForwardOrder::ForwardOrder(const Mask& mask, const AttentionShape& shape,
                           const std::vector<RowBlock>& query_blocks, const Positions& keys)
    : shape_(shape) {
  const auto planes = DistinctPlanes(mask, shape.batch, shape.heads);
  for (const auto& [plane, count] : planes) {
    for (size_t block = 0; block < query_blocks.size(); ++block) {
      work_.push_back({CountVisible(plane, {query_blocks[block].positions}, keys),
                       {static_cast<int64_t>(block), plane.batch, plane.head}});
    }
  }
  std::stable_sort(work_.begin(), work_.end(),
                   [](const Work& a, const Work& b) { return a.visible > b.visible; });
  if (planes.empty()) return;
  // A plane stands for all batches, all heads, or both.
  heads_ = planes.back().first.head + 1 == shape.heads ? 1 : shape.heads;
  batches_ = planes.back().second / heads_;
}

std::vector<ForwardItem> ForwardOrder::Items(const Range& pairs, int64_t least_visible) const {
  std::vector<ForwardItem> items;
  const int64_t group = shape_.heads / shape_.kv_heads;
  for (const Work& work : work_) {
    if (work.visible < least_visible) break;
    for (int64_t i = 0; i < batches_ * heads_; ++i) {
      const int64_t batch = work.first.batch + i / heads_;
      const int64_t head = work.first.head + i % heads_;
      const int64_t pair = batch * shape_.kv_heads + head / group;
      if (pairs.begin <= pair && pair < pairs.end) {
        items.push_back({work.first.query_block, batch, head});
      }
    }
  }
  return items;
}

}  // namespace ringwise
