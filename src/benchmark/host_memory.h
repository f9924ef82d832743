#pragma once

#include "ringwise/communicator.h"

namespace ringwise {

// Bytes of memory that this process may use, divided by the ranks on its host: those of the
// machine, or of the control group it runs in if that has fewer. Collective.
double MemoryOfRank(Communicator& world);

}  // namespace ringwise
