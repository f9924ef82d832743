#pragma once

#include "ringwise/planner.h"

namespace ringwise {

// The share of a device's memory that a plan uses; the rest is the system's, the libraries' and
// what no count sees.
inline constexpr double kUsableShare = 0.95;

// Bytes of one device with `rows` tokens of all its sequences. docs/planning.md has the formulas.
// What `ringwise train` holds, with parameters whole or, as FSDP would have them, in parts.
PlannedMemory OwnMemory(const PlanOptions& options, bool sharded, double rows);
// The paper's counting of its own runs: f32 throughout, parameters sharded, inputs of attention and
// of the feed-forward kept, six blocks at work.
PlannedMemory PaperMemory(const PlanOptions& options, double rows);

// What attention's forward holds of a shard, in blocks of rows x heads x head_dim numbers: query,
// key, value, output, and the ring's buffers.
double BlocksHeld(const PlanOptions& options);

}  // namespace ringwise
