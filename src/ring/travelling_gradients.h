#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "attention/shard_attention.h"
#include "ring/ring_plan.h"
#include "ring/travelling_blocks.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/memory.h"

namespace ringwise {

// The gradients of the blocks on their way. Everything has its turn, a step and the number of a
// block: what is waited for in a turn was posted by its other rank in an earlier one, so that ranks
// never wait in a circle.
class TravellingGradients {
 public:
  using Route = RingPlan::Route;

  TravellingGradients(Context& context, Communicator& ring, const RingPlan& plan,
                      ShardAttentionBackward& shard, const TravellingBlocks& blocks)
      : context_(context), ring_(ring), plan_(plan), shard_(shard), blocks_(blocks) {}

  // At the begin of a turn: adds the gradients that have come home since the step before, and posts
  // what arrives in the next step's turn of these blocks, here or at home.
  void Begin(int step, int block);
  // The gradient of a block that is here at `step`, with the parts of the ranks before; zero if
  // there is none yet.
  std::span<std::byte> Take(const Route& route, int step);
  // Sends it on, with this rank's part.
  void Leave(const Route& route, int step);
  // At the end of a turn: waits for what left in the one before.
  void End();

 private:
  // A gradient in memory, and its transfer, which is gone before it.
  struct Gradient {
    const Route* route = nullptr;
    Buffer buffer;
    Communicator::TransferPtr transfer;
  };

  Gradient Make(const Route& route);
  Gradient Find(std::vector<Gradient>& among, const Route& route) const;
  std::span<std::byte> BytesOf(const Gradient& gradient) const;
  void Release(Gradient gradient);

  Context& context_;
  Communicator& ring_;
  const RingPlan& plan_;
  ShardAttentionBackward& shard_;
  const TravellingBlocks& blocks_;
  std::vector<Buffer> free_;
  Gradient taken_;
  std::vector<Gradient> arriving_;        // posted and not yet taken
  std::vector<Gradient> coming_home_;     // likewise, of this rank's own blocks
  std::vector<Gradient> left_, leaving_;  // in the turn before, in this one
};

}  // namespace ringwise
