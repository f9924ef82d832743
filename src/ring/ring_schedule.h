#pragma once

#include <functional>
#include <span>
#include <vector>

#include "attention/shard_attention.h"
#include "ring/ring_plan.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"

// The one ring schedule: post, compute, wait, merge. It knows neither tiles, masks nor layouts:
// what to compute is the shard's business, what travels the plan's.
//
//   step s    post    receive block (rank - s - 1) from the previous rank,
//                     send block (rank - s) to the next
//             compute attend to block (rank - s); at step 0 also to the keys that stay at home
//             wait    for both transfers
//
// Backward also moves each block's gradient. The gradient of the block at hand arrives from the
// previous rank while this rank computes its own part; the sum goes on to the next rank while the
// next block is computed, and from the last user home.
//
// Memory, in kRingBuffers: two block buffers (one if this rank receives no block); in backward up
// to three gradient buffers (sent, computed, received), one in a ring of one; and during step 0
// those of the keys at home.
namespace ringwise {

struct RingBlocks {
  const RingPlan& plan;
  const std::vector<Positions>& key_positions;  // of the ranks' shards
  ConstTensorView key, value;                   // this rank's shard
};

// Attends `shard` to every block it uses, in ring order. Collective over `ring`.
void RunRingForward(Context& context, Communicator& ring, const RingBlocks& blocks,
                    ShardAttentionForward& shard);

// The same backward. This rank's dk and dv, summed over the ring, go to key_gradient and
// value_gradient through shard.UnpackGradient.
void RunRingBackward(Context& context, Communicator& ring, const RingBlocks& blocks,
                     ShardAttentionBackward& shard, TensorView key_gradient,
                     TensorView value_gradient);

}  // namespace ringwise
