#pragma once

#include <optional>

#include "ringwise/launch.h"
#include "ringwise/model_config.h"
#include "ringwise/planner.h"

namespace ringwise {

struct MeasuredHardware {
  Hardware hardware;  // of one rank: its threads, its share of the host's memory
  int ranks = 1;
  int threads = 1;  // a rank
};

// Measures a rank of this mesh as a device to plan for: its rates in `dtype`, of products as the
// model's layers have them and of attention with its head_dim and heads a kv_head, while all ranks
// compute at once; and the links, while all ranks send to the next one (two ranks have one, and use
// it both ways). A few seconds, with progress on stderr after two. Every process of an MPI job
// calls it; the first alone gets the result. Throws UsageError if the mesh does not fit the job or
// is no single ring, PeerError.
std::optional<MeasuredHardware> MeasureHardware(const MeshOptions& mesh, const ModelConfig& model,
                                                DType dtype);

}  // namespace ringwise
