#include "ring/ring_plan.h"

#include <algorithm>

namespace ringwise {
namespace {

bool SeesAny(const Mask& mask, const Positions& queries, const Positions& keys) {
  return std::any_of(queries.begin(), queries.end(), [&](const PositionRun& query_run) {
    return std::any_of(keys.begin(), keys.end(), [&](const PositionRun& key_run) {
      return Classify(mask, query_run, key_run) != TileKind::kEmpty;
    });
  });
}

}  // namespace

RingPlan::RingPlan(const Mask& mask, const std::vector<Positions>& query_positions,
                   const std::vector<Positions>& key_positions) {
  const auto ranks = static_cast<int>(key_positions.size());
  for (int block = 0; block < ranks; ++block) {
    kv_len_.push_back(Count(key_positions[block]));
    uses_.emplace_back(ranks, false);
    first_use_.push_back(kNever);
    last_use_.push_back(kNever);
    for (int step = 0; step < ranks; ++step) {
      const Positions& queries = query_positions[(block + step) % ranks];
      if (!SeesAny(mask, queries, key_positions[block])) continue;
      uses_[block][step] = true;
      if (first_use_[block] == kNever) first_use_[block] = step;
      last_use_[block] = step;
    }
  }
}

int64_t RingPlan::BytesSent(int rank, const BytesOf& block_bytes,
                            const BytesOf& gradient_bytes) const {
  int64_t bytes = 0;
  for (int step = 0; step < ring_size(); ++step) {
    const int block = BlockAt(rank, step);
    if (Moves(block, step)) bytes += block_bytes(kv_len_[block]);
    if (!gradient_bytes) continue;
    const bool goes_home = step > 0 && step == last_use_[block];
    if (GradientMoves(block, step) || goes_home) bytes += gradient_bytes(kv_len_[block]);
  }
  return bytes;
}

}  // namespace ringwise
