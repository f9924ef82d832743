#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "ring/lent_buffer.h"
#include "ring/ring_plan.h"
#include "ringwise/communicator.h"
#include "ringwise/context.h"

namespace ringwise {

// Tags of the ring's messages; those to previous ranks are one higher, because in a ring of two
// both neighbours are the same.
enum RingTag { kBlockTag = 0, kGradientTag = 2, kHomeTag = 4 };
inline int TagOf(RingTag tag, const RingPlan::Route& route) {
  return tag + (route.direction == 1 ? 0 : 1);
}

// The blocks on their way, double-buffered: those of step s are in buffer s mod 2. Where ranks
// share memory there are only the rank's own, and the others' are read where they are.
class TravellingBlocks {
 public:
  using PackBlock = std::function<void(Range rows, std::span<std::byte> block)>;
  using Route = RingPlan::Route;

  // Packs this rank's own blocks.
  TravellingBlocks(Context& context, Communicator& ring, const RingPlan& plan,
                   const std::function<int64_t(int64_t rows)>& block_bytes, const PackBlock& pack);

  struct Here {
    const Route* route;
    SharedBytes shared;

    std::span<std::byte> block() const { return shared.bytes; }
  };
  // The blocks at this rank at `step`, which may be past the last; at step 0 its own, each once a
  // route. Those of one rank in order of block and direction. Their bytes are here until Wait of
  // that step.
  const std::vector<Here>& At(int step) const { return here_[step]; }

  void Post(int step);
  void Wait();

 private:
  Communicator& ring_;
  const RingPlan& plan_;
  const std::function<int64_t(int64_t rows)> block_bytes_;
  std::array<LentBuffer, 2> buffers_;
  std::vector<std::vector<Here>> here_;               // by step
  int step_ = 0;                                      // the last posted
  std::vector<Communicator::TransferPtr> transfers_;  // last: gone before their memory
};

}  // namespace ringwise
