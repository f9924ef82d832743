#pragma once

#include "attention/shard_attention.h"
#include "ring/ring_plan.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"

// The one ring schedule: post, compute, wait. It knows neither tiles, masks nor layouts: what to
// compute is the shard's business, what travels and where to the plan's.
//
//   step s    post    receive the blocks that are here at step s + 1,
//                     send those that are here and go further
//             compute attend to the blocks that are here; at step 0 to this rank's own rows
//             wait    for the transfers posted
//
// In backward a block's gradient follows it. It arrives while other blocks are computed, this
// rank's part is added to it, and it leaves for the next rank or, from the last one, for home.
//
// Memory, in kRingBuffers: the blocks that are here and those of the next step; in forward, during
// step 0, the rows that stay at home; in backward the gradients of one step's blocks and two more
// blocks'.
namespace ringwise {

// Attends `shard` to its own keys and to every block it uses. `key` and `value` are this rank's, at
// `positions`. Collective over `ring`.
void RunRingForward(Context& context, Communicator& ring, const RingPlan& plan, ConstTensorView key,
                    ConstTensorView value, const Positions& positions,
                    ShardAttentionForward& shard);

// The same backward, of what the plan says travels. When it returns this rank's gradients are
// complete in the shard.
void RunRingBackward(Context& context, Communicator& ring, const RingPlan& plan,
                     ShardAttentionBackward& shard);

}  // namespace ringwise
