#include "benchmark/reference_call.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <span>
#include <thread>

namespace ringwise {

ReferenceCall::ReferenceCall(Rank& rank, const AttentionReference& reference) : rank_(rank) {
  if (!reference.on_one_rank) {
    call_ = std::make_unique<AttentionCall>(rank.context, rank.ring, reference.problem);
    return;
  }
  const bool first = rank.world.rank() == 0;
  cores_ = CoresOfAllRanks(rank.world);
  std::array<double, 1> threads = {static_cast<double>(rank.context.team.size())};
  rank.world.AllReduceSum(threads);
  ring_of_one_ = rank.world.Split(first ? 0 : 1);
  if (!first) return;
  const OnCores on_cores(cores_);  // while the team starts
  team_ = std::make_unique<ThreadTeam>(std::min(static_cast<int>(threads[0]), CPU_COUNT(&cores_)));
  context_ = std::make_unique<Context>(Context{*team_, meter_});
  call_ = std::make_unique<AttentionCall>(*context_, *ring_of_one_, reference.problem);
}

void ReferenceCall::Run() {
  if (!ring_of_one_) {
    call_->Run();
    rank_.ring.Barrier();
    return;
  }
  RunOnOneRank();
}

// Ranks that wait for a message look for it again and again, at the cost of the one that works: so
// they sleep for most of the shortest call so far.
void ReferenceCall::RunOnOneRank() {
  using Clock = std::chrono::steady_clock;
  std::array<double, 1> seconds = {0};
  if (call_) {
    const OnCores on_cores(cores_);
    const Clock::time_point begin = Clock::now();
    call_->Run();
    seconds[0] = std::chrono::duration<double>(Clock::now() - begin).count();
  } else {
    std::this_thread::sleep_for(std::chrono::duration<double>(0.9 * shortest_seconds_));
  }
  rank_.world.Broadcast(std::as_writable_bytes(std::span(seconds)), 0);
  shortest_seconds_ = shortest_seconds_ == 0 ? seconds[0] : std::min(shortest_seconds_, seconds[0]);
}

}  // namespace ringwise
