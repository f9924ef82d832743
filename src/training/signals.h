#pragma once

#include "ringwise/trainer.h"

namespace ringwise {

// While it lives, SIGINT, SIGTERM and SIGUSR1 are noted instead of ending the process. The second
// SIGINT or SIGTERM has the effect it had before, so that an impatient user is obeyed. One at a
// time in a process.
class SignalCatcher {
 public:
  SignalCatcher();
  ~SignalCatcher();
  SignalCatcher(const SignalCatcher&) = delete;
  SignalCatcher& operator=(const SignalCatcher&) = delete;

  // Whether the signal has come since the construction. Any thread.
  static bool Caught(int signal);
};

// What stopped the run, as its user knows it: "SIGTERM", "--max-seconds"; nothing if it finished.
const char* Name(StopReason reason);

}  // namespace ringwise
