#pragma once

#include <cstddef>
#include <list>
#include <span>
#include <utility>
#include <vector>

#include "attention/shard_attention.h"
#include "ring/lent_buffer.h"
#include "ring/ring_plan.h"
#include "ring/travelling_blocks.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"

namespace ringwise {

// The gradients of the blocks on their way. Everything has its turn, a step and the number of a
// block: what is waited for in a turn was posted by its other rank in an earlier one, so that ranks
// never wait in a circle.
//
// Where ranks share memory a gradient stays where the first rank made it, and each rank adds to it
// there in its turn.
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
  // A gradient, its memory if that is this rank's, and its transfer, which is gone before it.
  struct Gradient {
    const Route* route = nullptr;
    LentBuffer buffer;
    SharedBytes shared;
    Communicator::TransferPtr transfer;
  };

  size_t Bytes(const Route& route) const;
  Gradient Make(const Route& route);
  // Posts the receive of a gradient that is at its other rank at `step`.
  void Receive(const Route& route, int step, RingTag tag, std::list<Gradient>& among);
  // Waits for it.
  Gradient Received(std::list<Gradient>& among, const Route& route);
  void Release(Gradient gradient);

  Context& context_;
  Communicator& ring_;
  const RingPlan& plan_;
  ShardAttentionBackward& shard_;
  const TravellingBlocks& blocks_;
  std::vector<LentBuffer> free_;
  std::vector<LentBuffer> lent_;  // others may use them until the end
  Gradient taken_;
  std::list<Gradient> arriving_;          // posted and not yet taken; they must stay in place
  std::list<Gradient> coming_home_;       // likewise, of this rank's own blocks
  std::vector<Gradient> left_, leaving_;  // in the turn before, in this one
};

}  // namespace ringwise
