#pragma once

#include "ringwise/planner.h"
#include "ringwise/ring_simulation.h"

namespace ringwise {

enum class Pass { kForward, kBackward };

// One layer's call of ring attention with `rows` tokens of each sequence a device, for
// options.ring devices.
RingProblem AttentionRing(const PlanOptions& options, Pass pass, double rows);

// The block size from which a ring step's transfer takes no longer than its compute. The step with
// least to compute decides: of a causal mask every step of striped shards, and of zigzag ones those
// that compute a quarter of the square while half a shard travels, have half of a full mask's.
// Contiguous shards meet whole squares, or nothing.
double BlockSize(const PlanOptions& options, Pass pass);

}  // namespace ringwise
