#pragma once

#include "ringwise/memory.h"
#include "ringwise/thread_team.h"
#include "ringwise/trace.h"

namespace ringwise {

// What one rank computes with: its threads, its memory meter, and its trace if one is asked for.
// One a rank, passed down, never global.
struct Context {
  ThreadTeam& team;
  MemoryMeter& meter;
  Tracer* trace = nullptr;
};

}  // namespace ringwise
