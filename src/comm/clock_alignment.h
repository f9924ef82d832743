#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "ringwise/communicator.h"

namespace ringwise {

// How this rank's clock stands to rank 0's at one moment: rank 0's = mine + offset, give or take
// the uncertainty.
struct ClockOffset {
  std::chrono::nanoseconds mine{0};
  std::chrono::nanoseconds offset{0};
  std::chrono::nanoseconds uncertainty{0};
};

// Measured by messages to rank 0 and back: of several, the one that was back first, whose answer is
// taken for the middle of its way; the uncertainty is half the way. Clocks that may well be one
// (the offset is within the uncertainty), as those of ranks on one host are, have offset 0.
// Collective; rank 0's own offset is 0. `now` reads this rank's clock.
ClockOffset MeasureClockOffset(Communicator& world,
                               const std::function<std::chrono::nanoseconds()>& now);

// The steady clock, since the start that the system gives it.
std::chrono::nanoseconds SteadyNow();

// `mine` on rank 0's clock, on the straight line through two measurements: clocks drift apart by
// milliseconds in an hour.
std::chrono::nanoseconds OnClockOfRank0(std::chrono::nanoseconds mine, const ClockOffset& first,
                                        const ClockOffset& last);

}  // namespace ringwise
