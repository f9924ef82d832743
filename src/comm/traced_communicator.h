#pragma once

#include <memory>

#include "ringwise/communicator.h"
#include "ringwise/trace.h"

namespace ringwise {

// `inner` with its transfers, and the time that this rank's thread is blocked in it, recorded in
// `trace`; what it does is inner's. A send or receive is a span from its posting to its completion,
// with the other rank (of this communicator), the bytes and the tag; what is never waited for is
// not recorded. Both outlive it and what Split makes of it.
std::unique_ptr<Communicator> MakeTracedCommunicator(Communicator& inner, Tracer& trace);

}  // namespace ringwise
