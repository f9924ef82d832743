#include "ring/ring_plan.h"

#include <algorithm>

namespace ringwise {
namespace {

bool SeesAny(const MaskPlane& plane, const Positions& queries, const Positions& keys) {
  return std::any_of(queries.begin(), queries.end(), [&](const PositionRun& query_run) {
    return std::any_of(keys.begin(), keys.end(), [&](const PositionRun& key_run) {
      return Classify(plane, query_run, key_run) != TileKind::kEmpty;
    });
  });
}

}  // namespace

RingPlan::RingPlan(const Mask& mask, int64_t batch, int64_t heads,
                   const std::vector<Positions>& query_positions,
                   const std::vector<Positions>& key_positions) {
  const auto planes = DistinctPlanes(mask, batch, heads);
  const auto ranks = static_cast<int>(key_positions.size());
  for (int block = 0; block < ranks; ++block) {
    kv_len_.push_back(Count(key_positions[block]));
    uses_.emplace_back(ranks, false);
    first_use_.push_back(kNever);
    last_use_.push_back(kNever);
    for (int step = 0; step < ranks; ++step) {
      const Positions& queries = query_positions[(block + step) % ranks];
      const bool sees = std::any_of(planes.begin(), planes.end(), [&](const auto& plane) {
        return SeesAny(plane.first, queries, key_positions[block]);
      });
      if (!sees) continue;
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
