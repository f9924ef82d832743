#include "ring/attention_work.h"

#include <algorithm>
#include <numeric>

namespace ringwise {

int64_t VisiblePairs(const Mask& mask, int64_t batch, int64_t heads, const Positions& queries,
                     const Positions& keys) {
  int64_t pairs = 0;
  for (const auto& [plane, copies] : DistinctPlanes(mask, batch, heads)) {
    pairs += copies * CountVisible(plane, queries, keys);
  }
  return pairs;
}

double LargestOverMean(std::span<const double> pairs_by_rank) {
  const double total = std::accumulate(pairs_by_rank.begin(), pairs_by_rank.end(), 0.0);
  if (total == 0) return 1;
  return *std::max_element(pairs_by_rank.begin(), pairs_by_rank.end()) *
         static_cast<double>(pairs_by_rank.size()) / total;
}

}  // namespace ringwise
