#include <algorithm>
#include <cstring>
#include <vector>

#include "attention/attention_oracle.h"
#include "benchmark/attention_call.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

enum class RowsAt { kAxis1, kAxis2 };  // [1, rows, ...] or logsumexp's [1, heads, rows]

// The whole tensor of batch 1 in the order of positions, from every rank's rows.
Tensor Gather(Rank& rank, const Tensor& shard, const std::vector<Positions>& positions,
              int64_t first_position, RowsAt rows_at) {
  const size_t element = SizeOf(shard.dtype());
  const auto bytes = static_cast<size_t>(shard.elements()) * element;
  const auto shards =
      rank.ring.AllGather({static_cast<const std::byte*>(shard.view().memory), bytes});
  int64_t rows = 0;
  for (const Positions& part : positions) rows += Count(part);

  const bool inner = rows_at == RowsAt::kAxis1;
  const int64_t outer = inner ? 1 : shard.shape()[1];  // groups of rows
  const Shape shape =
      inner ? Shape{1, rows, shard.shape()[2], shard.shape()[3]} : Shape{1, outer, rows};
  const size_t row_bytes = inner ? static_cast<size_t>(shape[2] * shape[3]) * element : element;
  Tensor whole(rank.context.meter, MemoryCategory::kWorkspace, shard.dtype(), shape);
  auto* target = static_cast<std::byte*>(whole.view().memory);
  for (size_t r = 0; r < shards.size(); ++r) {
    const int64_t local_rows = Count(positions[r]);
    for (int64_t group = 0; group < outer; ++group) {
      for (int64_t row = 0; row < local_rows; ++row) {
        const int64_t to = group * rows + At(positions[r], row) - first_position;
        const int64_t from = group * local_rows + row;
        std::memcpy(target + static_cast<size_t>(to) * row_bytes,
                    shards[r].data() + static_cast<size_t>(from) * row_bytes, row_bytes);
      }
    }
  }
  return whole;
}

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
    const bool close =
        RmsError(results.*member, exact.*member) <= 1.1 * RmsError(plain.*member, exact.*member) &&
        LargestError(results.*member, exact.*member) <=
            2 * LargestError(plain.*member, exact.*member);
    if (!close) return std::string(name) + " is further off than the plain formula in bf16";
  }
  return "";
}

// Long enough for several tiles each way, with remainders; short enough for a scalar reference.
AttentionProblem Small(AttentionProblem problem) {
  const int64_t offset = problem.kv_seq - problem.seq;
  problem.batch = 1;
  problem.seq = std::min<int64_t>(problem.seq, 301);
  problem.kv_seq = std::max<int64_t>(1, problem.seq + std::clamp<int64_t>(offset, -100, 100));
  const int64_t group = problem.heads / problem.kv_heads;
  problem.kv_heads = std::min<int64_t>(problem.kv_heads, 2);
  problem.heads = problem.kv_heads * group;
  return problem;
}

}  // namespace

void CheckAttentionProblem(Rank& rank, AttentionProblem problem) {
  problem = Small(problem);
  AttentionCall call(rank, problem);
  const bool backward = problem.direction != Direction::kForward;
  call.Forward();
  if (backward) call.Backward();

  const RingAttentionOptions& options = call.options();
  const int64_t offset = problem.kv_seq - problem.seq;
  const auto queries = [&](const Tensor& shard, RowsAt rows = RowsAt::kAxis1) {
    return Gather(rank, shard, options.query_positions, offset, rows);
  };
  const auto keys = [&](const Tensor& shard) {
    return Gather(rank, shard, options.key_positions, 0, RowsAt::kAxis1);
  };
  const Tensor query = queries(call.query()), key = keys(call.key()), value = keys(call.value());
  AttentionCase whole{.options = {.scale = options.scale, .mask = options.mask},
                      .query_positions = {{.start = offset, .count = problem.seq}},
                      .key_positions = {{.start = 0, .count = problem.kv_seq}},
                      .query = query.view(),
                      .key = key.view(),
                      .value = value.view(),
                      .output_gradient = {}};
  AttentionResults results;
  results.output = ToDoubles(queries(call.output()).view());
  results.logsumexp = ToDoubles(queries(call.logsumexp(), RowsAt::kAxis2).view());
  Tensor output_gradient;
  if (backward) {
    output_gradient = queries(call.output_gradient());
    whole.output_gradient = output_gradient.view();
    results.dq = ToDoubles(queries(call.query_gradient()).view());
    results.dk = ToDoubles(keys(call.key_gradient()).view());
    results.dv = ToDoubles(keys(call.value_gradient()).view());
  }
  if (rank.world.rank() != 0) return;

  const AttentionOracle oracle = ComputeAttentionOracle(whole);
  const std::string problem_found =
      problem.dtype == DType::kF32
          ? CheckAttention(results, Results(oracle), oracle, AttentionBounds{})
          : CheckBf16(results, Results(ComputePlainBf16Attention(whole)), Results(oracle));
  if (!problem_found.empty()) {
    throw Error("attention is wrong, nothing was timed: " + problem_found);
  }
}

}  // namespace ringwise
