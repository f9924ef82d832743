#include "ring/backward_choice.h"

#include <utility>

namespace ringwise {

RingPlan BackwardPlanOf(const RingCall& call, const AttentionShape& shape, Travelling travelling,
                        const BlockCut& cut) {
  const auto bytes = [shape, travelling](int64_t rows) {
    return BackwardBytes(shape, travelling, rows);
  };
  return {call, travelling, bytes, cut};
}

BackwardChoice ChooseBackward(const RingCall& call, const AttentionShape& shape, bool has_bias,
                              const BlockCut& cut) {
  RingPlan keys = BackwardPlanOf(call, shape, Travelling::kKeys, cut);
  if (has_bias || call.query_positions.size() == 1) return {Travelling::kKeys, std::move(keys)};
  RingPlan queries = BackwardPlanOf(call, shape, Travelling::kQueries, cut);
  if (queries.TotalBytes() < keys.TotalBytes()) {
    return {Travelling::kQueries, std::move(queries)};
  }
  return {Travelling::kKeys, std::move(keys)};
}

}  // namespace ringwise
