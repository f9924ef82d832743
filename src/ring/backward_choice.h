#pragma once

#include "attention/shard_attention.h"
#include "ring/ring_plan.h"

namespace ringwise {

// What travels in backward, and its plan: whichever sends the fewest bytes in all, counted from the
// mask, the layouts and the shape, so that every rank chooses the same. Keys where it is a draw,
// and where there is a bias, whose rows are at home with the queries. With every pair visible and
// as many queries as keys, D = head_dim + value_dim, s bytes an element:
//
//   keys      kv_heads D (s + 4)
//   queries   heads (D s + 4 head_dim + 8)      bytes a row and hop
//
// so that queries travel with as many kv_heads as heads, and keys with half as many or fewer.
struct BackwardChoice {
  Travelling travelling;
  RingPlan plan;
};
inline constexpr BlockCut kBackwardCut = {.parts = 4};
BackwardChoice ChooseBackward(const RingCall& call, const AttentionShape& shape, bool has_bias,
                              const BlockCut& cut = kBackwardCut);

// The plan of one of the two.
RingPlan BackwardPlanOf(const RingCall& call, const AttentionShape& shape, Travelling travelling,
                        const BlockCut& cut = kBackwardCut);

}  // namespace ringwise
