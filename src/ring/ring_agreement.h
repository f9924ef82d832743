#pragma once

#include "attention/shard_attention.h"
#include "ringwise/communicator.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

// Checks this rank's tensors against the options and each other, and the options and shapes against
// those of the other ranks, before anything large travels.
// Collective: if any rank finds an error, every rank throws ShapeError, naming the first such rank.
AttentionShape AgreeOnForward(Communicator& ring, const RingAttentionOptions& options,
                              const AttentionInputs& inputs, const AttentionOutputs& outputs);
AttentionShape AgreeOnBackward(Communicator& ring, const RingAttentionOptions& options,
                               const AttentionInputs& inputs, const AttentionSaved& saved,
                               const AttentionGradients& gradients);

}  // namespace ringwise
