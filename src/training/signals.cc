#include "training/signals.h"

#include <array>
#include <atomic>
#include <csignal>

namespace ringwise {
namespace {

constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGUSR1};

// A handler has no other way to be given its state; lock-free atomics are safe in one.
std::array<std::atomic<bool>, kSignals.size()> caught{};
std::array<struct sigaction, kSignals.size()> previous{};

void Note(int signal) {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    if (kSignals[i] != signal) continue;
    caught[i] = true;
    if (signal != SIGUSR1) sigaction(signal, &previous[i], nullptr);
  }
}

}  // namespace

SignalCatcher::SignalCatcher() {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    caught[i] = false;
    struct sigaction action {};
    action.sa_handler = Note;
    action.sa_flags = SA_RESTART;
    sigaction(kSignals[i], &action, &previous[i]);
  }
}

SignalCatcher::~SignalCatcher() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous[i], nullptr);
}

bool SignalCatcher::Caught(int signal) {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    if (kSignals[i] == signal) return caught[i];
  }
  return false;
}

const char* Name(StopReason reason) {
  switch (reason) {
    case StopReason::kInterrupt:
      return "SIGINT";
    case StopReason::kTerminate:
      return "SIGTERM";
    case StopReason::kUser1:
      return "SIGUSR1";
    case StopReason::kMaxSeconds:
      return "--max-seconds";
    case StopReason::kFinished:
      break;
  }
  return "";
}

}  // namespace ringwise
