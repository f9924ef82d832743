#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "attention/attention_oracle.h"
#include "attention/few_queries.h"
#include "benchmark/attention_call.h"
#include "ringwise/error.h"
#include "ringwise/whole_attention.h"

namespace ringwise {
namespace {

// bf16: no worse than the plain formula in bf16, by 1.1 in the root mean square and 2 at most.
std::string CheckBf16(const AttentionResults& results, const AttentionResults& plain,
                      const AttentionResults& exact) {
  using Member = std::vector<double> AttentionResults::*;
  constexpr std::pair<const char*, Member> kTensors[] = {
      {"output", &AttentionResults::output},
      {"logsumexp", &AttentionResults::logsumexp},
      {"dq", &AttentionResults::dq},
      {"dk", &AttentionResults::dk},
      {"dv", &AttentionResults::dv}};
  for (const auto& [name, member] : kTensors) {
    if ((exact.*member).empty()) continue;
    const double largest = LargestError(results.*member, exact.*member);
    const bool close =
        RmsError(results.*member, exact.*member) <= 1.1 * RmsError(plain.*member, exact.*member) &&
        largest <= 2 * LargestError(plain.*member, exact.*member);
    // Of a few rows the plain formula's error may be next to nothing by chance: what f32 may be off
    // by, which no rounding to bf16 comes near, is right as well.
    if (!close && !(largest <= AttentionBounds{}.forward * LargestMagnitude(exact.*member)))
      return std::string(name) + " is further off than the plain formula in bf16";
  }
  return "";
}

// Whether a rank alone attends otherwise than in tiles.
bool ReadsInPlace(const AttentionProblem& problem) {
  const AttentionShape shape{.heads = problem.heads,
                             .kv_heads = problem.kv_heads,
                             .head_dim = problem.head_dim,
                             .value_dim = problem.head_dim,
                             .dtype = problem.dtype};
  return SuitsFewQueries(shape, {}, problem.seq, {{0, problem.kv_seq, 1}});
}

// Of so few a longer cache costs the reference little.
constexpr int64_t kFewQueries = 16;

// Long enough for several tiles each way, with remainders, and for the path that the problem itself
// takes; short enough for a scalar reference.
AttentionProblem Small(AttentionProblem problem) {
  const int64_t offset = problem.kv_seq - problem.seq;
  const int64_t group = problem.heads / problem.kv_heads;
  int64_t most_offset = problem.seq <= kFewQueries ? 1500 : 100;
  int64_t most_kv_heads = 2;
  if (ReadsInPlace(problem)) {
    most_offset = kFewQueriesLeastKeys + 100;
    if (group * problem.seq > kFewQueries) most_kv_heads = 1;
  }
  problem.batch = 1;
  problem.seq = std::min<int64_t>(problem.seq, 301);
  problem.kv_seq =
      std::max<int64_t>(1, problem.seq + std::clamp<int64_t>(offset, -100, most_offset));
  for (auto* const window : {&problem.window_left, &problem.window_right}) {
    if (*window) *window = std::min<int64_t>(**window, 70);
  }
  PackedDocuments& documents = problem.documents;
  documents.longest = std::min<int64_t>(documents.longest, 90);
  documents.shortest = std::min<int64_t>(documents.shortest, 20);
  problem.kv_heads = std::min<int64_t>(problem.kv_heads, most_kv_heads);
  problem.heads = problem.kv_heads * group;
  return problem;
}

}  // namespace

void CheckAttentionProblem(Rank& rank, AttentionProblem problem) {
  problem = Small(problem);
  const int64_t offset = problem.kv_seq - problem.seq;
  const Positions queries = {{.start = offset, .count = problem.seq}};
  const Positions keys = {{.start = 0, .count = problem.kv_seq}};
  const auto make = [&](AttentionTensor tensor, const Positions& positions, int64_t heads) {
    Tensor made(rank.context.meter, MemoryCategory::kActivations, problem.dtype,
                {1, Count(positions), heads, problem.head_dim});
    FillByPosition(rank.context, made, positions, tensor);
    return made;
  };
  const Tensor query = make(AttentionTensor::kQuery, queries, problem.heads);
  const Tensor key = make(AttentionTensor::kKey, keys, problem.kv_heads);
  const Tensor value = make(AttentionTensor::kValue, keys, problem.kv_heads);
  const Tensor output_gradient = make(AttentionTensor::kOutputGradient, queries, problem.heads);

  WholeAttention whole;
  whole.mask = MaskOf(problem);
  whole.query_offset = offset;
  whole.layout = problem.layout;
  whole.key_layout = problem.layout;
  whole.inputs = {query.view(), key.view(), value.view()};
  if (problem.direction != Direction::kForward) whole.output_gradient = output_gradient.view();
  const WholeResults found = AttendWhole(rank.context, rank.ring, whole);
  if (rank.world.rank() != 0) return;

  const AttentionCase exact{.options = whole,
                            .query_positions = queries,
                            .key_positions = keys,
                            .query = whole.inputs.query,
                            .key = whole.inputs.key,
                            .value = whole.inputs.value,
                            .output_gradient = whole.output_gradient};
  const AttentionOracle oracle = ComputeAttentionOracle(exact);
  const auto doubles = [](const std::vector<float>& values) {
    return std::vector<double>(values.begin(), values.end());
  };
  const AttentionResults results{.output = doubles(found.output),
                                 .logsumexp = doubles(found.logsumexp),
                                 .dq = doubles(found.dq),
                                 .dk = doubles(found.dk),
                                 .dv = doubles(found.dv)};
  const std::string wrong = problem.dtype == DType::kF32
                                ? CheckAttention(results, oracle, oracle, AttentionBounds{})
                                : CheckBf16(results, ComputePlainBf16Attention(exact), oracle);
  if (!wrong.empty()) throw Error("attention is wrong, nothing was timed: " + wrong);
}

}  // namespace ringwise
