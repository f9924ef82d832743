#include "comm/blocked_wait.h"

#include <fmt/format.h>

#include <string>

#include "ringwise/communicator.h"

namespace ringwise {

void ThrowTimedOut(double seconds, int waiter, int peer) {
  const std::string whom = peer < 0 ? "the other ranks" : fmt::format("rank {}", peer);
  throw PeerError(
      fmt::format("rank {} waited {} s for {} without an answer: it has stalled or ended "
                  "(raise the time-out if its work takes longer)",
                  waiter, seconds, whom));
}

}  // namespace ringwise
