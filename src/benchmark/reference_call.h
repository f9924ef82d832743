#pragma once

#include <memory>

#include "benchmark/attention_call.h"
#include "benchmark/cores.h"
#include "ringwise/benchmark.h"

namespace ringwise {

// The calls that a case is compared with: on the same ring, or by rank 0 alone with the cores of
// all ranks while the others sleep.
class ReferenceCall {
 public:
  // Collective.
  ReferenceCall(Rank& rank, const AttentionReference& reference);

  // Collective; on rank 0 it lasts as long as the call does.
  void Run();

 private:
  void RunOnOneRank();

  Rank& rank_;
  // Of rank 0 alone:
  std::unique_ptr<Communicator> ring_of_one_;
  cpu_set_t cores_{};
  std::unique_ptr<ThreadTeam> team_;
  MemoryMeter meter_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<AttentionCall> call_;
  double shortest_seconds_ = 0;  // of a call so far
};

}  // namespace ringwise
