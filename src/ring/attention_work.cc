#include "ring/attention_work.h"

#include <algorithm>

namespace ringwise {

AttentionWork ComputeAttentionWork(const Mask& mask, int64_t batch, int64_t heads,
                                   const std::vector<Positions>& query_positions,
                                   const std::vector<Positions>& key_positions) {
  AttentionWork work;
  int64_t largest = 0;
  int64_t total = 0;
  for (const Positions& queries : query_positions) {
    int64_t pairs = 0;
    for (const auto& [plane, copies] : DistinctPlanes(mask, batch, heads)) {
      for (const Positions& keys : key_positions) {
        pairs += copies * CountVisible(plane, queries, keys);
      }
    }
    work.visible_pairs.push_back(pairs);
    largest = std::max(largest, pairs);
    total += pairs;
  }
  if (total > 0) {
    work.largest_over_mean = static_cast<double>(largest) *
                             static_cast<double>(query_positions.size()) /
                             static_cast<double>(total);
  }
  return work;
}

}  // namespace ringwise
