#pragma once

#include <functional>

#include "ringwise/launch.h"

namespace ringwise {

// Rank 0 does the work while the others wait for it, however long it takes: they get signs of life
// well within `timeout_seconds`, after which they would take it for gone. Throws what the work
// throws. A collective call of the whole world; the work does not communicate.
void LeadAlone(Rank& rank, double timeout_seconds, const std::function<void()>& work);

}  // namespace ringwise
