#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/attention_call.h"
#include "ring/attention_work.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

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
  for (const auto& window : {problem.window_left, problem.window_right}) {
    if (window && *window < 0) {
      throw UsageError("a window must be 0 or more on either side; found " +
                       std::to_string(*window));
    }
  }
  const PackedDocuments& documents = problem.documents;
  if (documents.longest == 0 && documents.shortest == 0) return;
  if (documents.shortest < 1 || documents.longest < documents.shortest) {
    throw UsageError("documents need lengths 1 <= shortest <= longest; found " +
                     std::to_string(documents.shortest) + " and " +
                     std::to_string(documents.longest));
  }
}

// Of the lengths that the documents of one sequence draw.
Segments DrawDocuments(const PackedDocuments& documents, int64_t length, int64_t sequence) {
  constexpr uint64_t kSeed = 500'2000;
  Random random(kSeed, static_cast<uint64_t>(sequence));
  const auto kinds = static_cast<uint64_t>(documents.longest - documents.shortest + 1);
  Segments segments;
  for (int64_t begin = 0; begin < length;) {
    const int64_t drawn = documents.shortest + static_cast<int64_t>(random.Below(kinds));
    const int64_t end = std::min(length, begin + drawn);
    segments.push_back({begin, end, static_cast<int32_t>(segments.size())});
    begin = end;
  }
  return segments;
}

double Pairs(const AttentionProblem& problem) {
  const auto seq = static_cast<double>(problem.seq);
  const auto kv_seq = static_cast<double>(problem.kv_seq);
  const auto sequences = static_cast<double>(problem.batch * problem.heads);
  if (problem.window_left || problem.window_right || problem.documents.longest > 0) {
    const Positions queries = {{.start = problem.kv_seq - problem.seq, .count = problem.seq}};
    const Positions keys = {{.start = 0, .count = problem.kv_seq}};
    return static_cast<double>(
        VisiblePairs(MaskOf(problem), problem.batch, problem.heads, queries, keys));
  }
  if (!problem.causal) return sequences * seq * kv_seq;
  // Without queries before the first key; those see nothing.
  const double square = std::min(seq, kv_seq);
  return sequences * (square * (kv_seq - square) + square * square / 2);
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

AttentionProblem WithDefaults(AttentionProblem problem) {
  if (problem.kv_seq == 0) problem.kv_seq = problem.seq;
  if (problem.kv_heads == 0) problem.kv_heads = problem.heads;
  CheckShape(problem);
  return problem;
}

Mask MaskOf(const AttentionProblem& problem) {
  Mask mask{.causal = problem.causal,
            .window_left = problem.window_left,
            .window_right = problem.window_right};
  if (problem.documents.longest > 0) {
    std::vector<Segments> segments;
    for (int64_t sequence = 0; sequence < problem.batch; ++sequence) {
      segments.push_back(DrawDocuments(problem.documents, problem.kv_seq, sequence));
    }
    mask.segments = std::make_shared<const SegmentMap>(segments, segments);
  }
  return mask;
}

double AttentionFlops(const AttentionProblem& given) {
  const AttentionProblem problem = WithDefaults(given);
  const double forward = 4 * Pairs(problem) * static_cast<double>(problem.head_dim);
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

}  // namespace ringwise
