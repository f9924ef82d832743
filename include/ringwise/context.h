#pragma once

#include "ringwise/memory.h"
#include "ringwise/thread_team.h"

namespace ringwise {

// What one rank computes with: its threads and its memory meter. One a rank, passed down, never
// global.
struct Context {
  ThreadTeam& team;
  MemoryMeter& meter;
};

}  // namespace ringwise
