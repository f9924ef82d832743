#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ringwise/context_benchmark.h"
#include "ringwise/launch.h"
#include "training/optimizer.h"

namespace ringwise {

// The mesh of so many ranks, threads that share the cores.
MeshOptions ContextMesh(int ranks);

// Keys that each query head may see of the design, or null: all before it.
std::shared_ptr<const std::vector<MaskSlice>> SlicesOf(const ContextDesign& design, int64_t heads,
                                                       int64_t context);

// A model and its one sequence of made-up tokens, on one rank. Collective.
class ContextStep {
 public:
  // `context` may be of a rehearsing team.
  ContextStep(Rank& rank, Context& context, const ContextOptions& options,
              const ContextDesign& design, int64_t tokens);

  // Forward and backward; the loss in nats a token, the same on every rank.
  double ForwardBackward();
  // The optimizer's step from the gradients of all ranks.
  void Update();

 private:
  Rank& rank_;
  const ContextOptions& options_;
  int64_t sequence_;
  Llama model_;
  std::optional<AdamW> optimizer_;
  TokenBatch batch_;
  std::vector<int32_t> tokens_, targets_;
  int64_t step_ = 0;
};

}  // namespace ringwise
