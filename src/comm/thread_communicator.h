#pragma once

#include <memory>
#include <vector>

#include "comm/shared_failure.h"
#include "ringwise/communicator.h"

namespace ringwise {

// Communicators of `size` ranks that are threads of this process; element r is for rank r's thread.
// A message is copied once, from the sender's memory to the receiver's, by whichever side comes
// second; waiting threads sleep, since ranks may outnumber cores. A rank that fails must say so by
// failure->Set: every other rank's next or present call then throws PeerError within 0.1 s, here
// and in communicators split from these.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(
    int size, double timeout_seconds, const std::shared_ptr<SharedFailure>& failure);

}  // namespace ringwise
