#include "training/lead_alone.h"

#include <chrono>
#include <cstddef>
#include <future>

namespace ringwise {
namespace {

// Signs of life that the ranks waiting for rank 0's own work get within their --timeout.
constexpr double kSignsOfLife = 4;

}  // namespace

void LeadAlone(Rank& rank, double timeout_seconds, const std::function<void()>& work) {
  if (rank.world.size() == 1) {
    work();
    return;
  }
  // The work runs beside this thread, which alone may speak to the others.
  std::future<void> done;
  const bool leads = rank.world.rank() == 0;
  if (leads) done = std::async(std::launch::async, work);
  const std::chrono::duration<double> between(timeout_seconds / kSignsOfLife);
  auto working = std::byte{1};
  while (working != std::byte{0}) {
    if (leads && done.wait_for(between) == std::future_status::ready) {
      done.get();
      working = std::byte{0};
    }
    rank.world.Broadcast({&working, 1}, 0);
  }
}

}  // namespace ringwise
