#pragma once

#include <functional>

#include "attention/shard_attention.h"
#include "ringwise/communicator.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

// Calls check(), which throws if something is wrong here. Collective: if it throws ShapeError or
// UsageError on any rank, every rank throws the first such rank's error and names the rank.
void CheckOnEveryRank(Communicator& ring, const std::function<void()>& check);

// Check this rank's tensors and options against each other, and then the options and shapes against
// those of the other ranks, before anything large travels. Collective, and throw as
// CheckOnEveryRank does.
AttentionShape AgreeOnForward(Communicator& ring, const RingAttentionOptions& options,
                              const AttentionInputs& inputs, const AttentionOutputs& outputs);
AttentionShape AgreeOnBackward(Communicator& ring, const RingAttentionOptions& options,
                               const AttentionInputs& inputs, const AttentionSaved& saved,
                               const AttentionGradients& gradients);

}  // namespace ringwise
