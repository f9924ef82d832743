#include "attention/backward_problem.h"

#include <span>

namespace ringwise {

std::vector<QueryPart> FindQueryParts(const BackwardProblem& problem, int64_t batch,
                                      int64_t first_head, int64_t heads, const PositionRun& keys) {
  std::vector<QueryPart> parts;
  for (int64_t head = first_head; head < first_head + heads; ++head) {
    const MaskPlane plane{problem.mask, batch, head};
    const std::span<const KeyRange> hulls = problem.hulls->Of(problem.hulls->PlaneOf(batch, head));
    for (size_t index = 0; index < hulls.size(); ++index) {
      if (!Meets(hulls[index], keys)) continue;
      const RowBlock& queries = problem.query_blocks[index];
      if (Classify(plane, queries.positions, keys) == TileKind::kEmpty) continue;
      parts.push_back({batch, head, queries});
    }
  }
  return parts;
}

}  // namespace ringwise
