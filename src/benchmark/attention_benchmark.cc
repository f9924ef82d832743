#include <algorithm>
#include <array>
#include <vector>

#include "benchmark/attention_call.h"
#include "benchmark/timing.h"
#include "core/out_of_memory.h"
#include "ringwise/error.h"
#include "training/mesh_peak.h"

namespace ringwise {
namespace {

void CheckShape(const AttentionProblem& problem) {
  for (const int64_t extent : {problem.batch, problem.seq, problem.kv_seq, problem.heads,
                               problem.kv_heads, problem.head_dim}) {
    if (extent < 1) throw UsageError("lengths, heads and head_dim must be at least 1");
  }
  if (problem.heads % problem.kv_heads != 0) {
    throw UsageError("heads must be a multiple of kv_heads; found " +
                     std::to_string(problem.heads) + " and " + std::to_string(problem.kv_heads));
  }
  if (problem.head_dim > 256) {
    throw UsageError("head_dim must be at most 256; found " + std::to_string(problem.head_dim));
  }
}

}  // namespace

std::string_view Name(Direction direction) {
  switch (direction) {
    case Direction::kForward:
      return "forward";
    case Direction::kBackward:
      return "backward";
    case Direction::kForwardBackward:
      return "forward_backward";
  }
  return "";
}

double AttentionFlops(const AttentionProblem& problem) {
  const auto seq = static_cast<double>(problem.seq);
  const auto kv_seq = static_cast<double>(problem.kv_seq == 0 ? problem.seq : problem.kv_seq);
  // Without queries before the first key; those see nothing.
  const double square = std::min(seq, kv_seq);
  const double pairs =
      problem.causal ? square * (kv_seq - square) + square * square / 2 : seq * kv_seq;
  const double forward = 4 * pairs * static_cast<double>(problem.head_dim) *
                         static_cast<double>(problem.heads) * static_cast<double>(problem.batch);
  switch (problem.direction) {
    case Direction::kForward:
      return forward;
    case Direction::kBackward:
      return 2.5 * forward;
    case Direction::kForwardBackward:
      return 3.5 * forward;
  }
  return 0;
}

std::optional<BenchmarkResult> BenchmarkAttention(const MeshOptions& mesh, AttentionProblem problem,
                                                  double min_seconds) {
  if (problem.kv_seq == 0) problem.kv_seq = problem.seq;
  if (problem.kv_heads == 0) problem.kv_heads = problem.heads;
  CheckShape(problem);
  if (mesh.data_parallel > 1)
    throw UsageError("bench attention measures one ring; leave out --data-parallel");

  std::optional<BenchmarkResult> result;
  const auto measure = [&](Rank& rank) {
    CheckAttentionProblem(rank, problem);
    AttentionCall call(rank, problem);
    const auto run = [&] {
      if (problem.direction != Direction::kBackward) call.Forward();
      if (problem.direction != Direction::kForward) call.Backward();
      rank.ring.Barrier();
    };
    if (problem.direction == Direction::kBackward) call.Forward();
    run();  // the warm-up
    CallTimes times;
    double peak = 0;
    for (bool more = true; more;) {
      peak = std::max(peak, MeasureMeshPeak(rank, problem.dtype));
      rank.ring.Barrier();
      times.Time(run);
      std::array<std::byte, 1> go_on = {std::byte{!times.Enough(min_seconds)}};
      rank.ring.Broadcast(go_on, 0);
      more = go_on[0] != std::byte{0};
    }
    peak = std::max(peak, MeasureMeshPeak(rank, problem.dtype));
    if (rank.world.rank() != 0) return;
    result.emplace();
    result->ring = rank.ring.size();
    result->threads = rank.context.team.size();
    result->flops = AttentionFlops(problem);
    result->peak_flops = peak;
    times.Summarize(*result);
  };
  Launch(mesh, [&](Rank& rank) {
    ExplainOutOfMemory("use more hosts, or a shorter --seq", [&] { measure(rank); });
  });
  return result;
}

}  // namespace ringwise
