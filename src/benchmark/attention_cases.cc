#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "ringwise/benchmark.h"

namespace ringwise {
namespace {

constexpr std::array kHeadDims = {128, 64};
constexpr std::array kDTypes = {DType::kF32, DType::kBF16};

// A length, with as many heads as make a call take a second or two.
struct Length {
  const char* name;
  int64_t seq;
  int64_t heads;
};
constexpr Length kSquares[] = {{"8k", 8192, 8}, {"16k", 16384, 4}};
constexpr Length kRingLengths[] = {{"16k", 16384, 4}, {"64k", 65536, 1}};

struct SquareRow {
  const char* name;
  bool causal;
  Direction direction;
};
constexpr SquareRow kSquareRows[] = {{"forward-full", false, Direction::kForward},
                                     {"forward-causal", true, Direction::kForward},
                                     {"backward-full", false, Direction::kBackward},
                                     {"both-causal", true, Direction::kForwardBackward}};

// Queries and heads a kv_head of decoding.
struct DecodeGroup {
  int64_t queries;
  int64_t group;
};
constexpr DecodeGroup kDecodeGroups[] = {{1, 1}, {1, 4}, {4, 1}, {1, 8}, {8, 1}, {8, 8}};

constexpr std::pair<const char*, Direction> kRingDirections[] = {
    {"forward", Direction::kForward}, {"both", Direction::kForwardBackward}};

std::string WithDType(std::string name, DType dtype) {
  return std::move(name) + "-" + std::string(Name(dtype));
}

// One head_dim and type, as rows of docs/performance.md; names without those two.
std::vector<AttentionBenchmark> Rows(int64_t head_dim, DType dtype) {
  std::vector<AttentionBenchmark> rows;
  const auto add = [&](std::string name, AttentionProblem problem) -> AttentionBenchmark& {
    problem.head_dim = head_dim;
    problem.dtype = dtype;
    return rows.emplace_back(AttentionBenchmark{.name = std::move(name), .problem = problem});
  };
  for (const auto& [length, seq, heads] : kSquares) {
    for (const auto& [name, causal, direction] : kSquareRows) {
      add(std::string(name) + "-" + length,
          {.seq = seq, .heads = heads, .causal = causal, .direction = direction});
    }
  }
  const AttentionProblem longer{.seq = 65536, .direction = Direction::kForward};
  AttentionProblem window = longer;
  window.window_left = 1024;
  window.window_right = 0;
  add("window-64k", window);
  AttentionProblem documents = longer;
  documents.documents = {500, 2000};
  add("documents-full-64k", documents);
  documents.causal = true;
  add("documents-causal-64k", documents);

  const AttentionProblem own_keys{.seq = 8192, .direction = Direction::kForward};
  AttentionProblem grouped = own_keys;
  grouped.kv_heads = 1;
  AttentionBenchmark& row = add("grouped-8-8k", grouped);
  row.reference = AttentionReference{row.problem};
  row.reference->problem.kv_heads = own_keys.heads;

  for (const auto& [queries, group] : kDecodeGroups) {
    AttentionProblem decode = longer;
    decode.seq = queries;
    decode.kv_seq = longer.seq;
    decode.kv_heads = 8;
    decode.heads = group * decode.kv_heads;
    add("decode-" + std::to_string(queries) + "x" + std::to_string(group) + "-64k", decode);
  }
  return rows;
}

// A ring against one rank with the cores of all.
AttentionBenchmark AgainstOneRank(int ring, std::string name, const AttentionProblem& problem) {
  return {.name = "ring-" + std::to_string(ring) + "-" + std::move(name),
          .problem = problem,
          .ring = ring,
          .reference = AttentionReference{problem, true}};
}

// A balanced layout against the contiguous one, on two ranks of one core.
AttentionBenchmark AgainstContiguous(std::string name, const AttentionProblem& problem) {
  AttentionReference reference{problem};
  reference.problem.layout = Layout::kContiguous;
  return {.name = "layout-2-" + std::move(name),
          .problem = problem,
          .ring = 2,
          .threads = 1,
          .reference = reference};
}

}  // namespace

std::vector<AttentionBenchmark> AttentionBenchmarks() {
  std::vector<std::vector<AttentionBenchmark>> columns;
  for (const int64_t head_dim : kHeadDims) {
    for (const DType dtype : kDTypes) {
      columns.push_back(Rows(head_dim, dtype));
      for (AttentionBenchmark& row : columns.back()) {
        row.name = WithDType(row.name + "-" + std::to_string(head_dim), dtype);
      }
    }
  }
  std::vector<AttentionBenchmark> benchmarks;
  for (size_t row = 0; row < columns[0].size(); ++row) {
    for (const auto& column : columns) benchmarks.push_back(column[row]);
  }
  return benchmarks;
}

std::vector<AttentionBenchmark> RingBenchmarks() {
  std::vector<AttentionBenchmark> rings;
  std::vector<AttentionBenchmark> layouts;
  for (const auto& [length, seq, heads] : kRingLengths) {
    for (const auto& [direction_name, direction] : kRingDirections) {
      for (const DType dtype : kDTypes) {
        AttentionProblem problem{
            .seq = seq, .heads = heads, .dtype = dtype, .direction = direction};
        const std::string end = WithDType(std::string(length) + "-" + direction_name, dtype);
        for (const int ring : {2, 4, 8}) {
          problem.causal = false;
          problem.layout = Layout::kContiguous;
          rings.push_back(AgainstOneRank(ring, "full-contiguous-" + end, problem));
          problem.causal = true;
          for (const Layout layout : {Layout::kStriped, Layout::kZigzag}) {
            problem.layout = layout;
            rings.push_back(
                AgainstOneRank(ring, "causal-" + std::string(Name(layout)) + "-" + end, problem));
          }
        }
        for (const Layout layout : {Layout::kStriped, Layout::kZigzag}) {
          problem.layout = layout;
          layouts.push_back(AgainstContiguous(std::string(Name(layout)) + "-" + end, problem));
        }
      }
    }
  }
  rings.insert(rings.end(), layouts.begin(), layouts.end());
  return rings;
}

std::string ReferenceName(const AttentionBenchmark& benchmark) {
  if (!benchmark.reference) return "";
  if (benchmark.reference->on_one_rank) return "one rank";
  const AttentionProblem& reference = benchmark.reference->problem;
  if (reference.layout != benchmark.problem.layout) return std::string(Name(reference.layout));
  return std::to_string(reference.kv_heads) + " kv_heads";
}

AttentionBenchmark Shortened(AttentionBenchmark benchmark, int64_t most) {
  const auto shorten = [&](AttentionProblem& problem) {
    problem.seq = std::min(problem.seq, most);
    problem.kv_seq = std::min(problem.kv_seq, most);
  };
  shorten(benchmark.problem);
  if (benchmark.reference) shorten(benchmark.reference->problem);
  return benchmark;
}

}  // namespace ringwise
