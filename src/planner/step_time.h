#pragma once

#include "ringwise/planner.h"

namespace ringwise {

struct AttentionTimes {
  AttentionCallTime call;
  double forward_compute = 0;  // seconds of the busiest rank
  double backward_compute = 0;
  double compute_balance = 1;  // its compute over the ranks' mean
};
// One layer's calls, with `rows` tokens of each sequence a device.
AttentionTimes TimeAttention(const PlanOptions& options, double rows);

// Of a step with `rows` tokens of all its sequences a device.
StepTime TimeStep(const PlanOptions& options, bool sharded, double rows,
                  const AttentionTimes& attention);

// FLOPs a token that training needs, recomputation not counted: docs/training.md, MFU.
double ModelFlops(const PlanOptions& options, int64_t context);

}  // namespace ringwise
