#include "ring/ring_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "attention/shard_attention_reference.h"
#include "ring/ring_plan.h"
#include "ring/ring_schedule.h"
#include "ring/row_shards.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

Tensor RandomTensor(MemoryMeter& meter, uint64_t seed, uint64_t stream, DType dtype, Shape shape) {
  Tensor tensor(meter, MemoryCategory::kWorkspace, dtype, shape);
  Random random(seed, stream);
  DispatchDType(dtype, [&]<class T>(T) {
    for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<T>()[i] = T(random.Normal());
  });
  return tensor;
}

}  // namespace

std::string RingCase::ToString() const {
  std::string text = fmt::format(
      "--batch {} --heads {} --kv-heads {} --head-dim {} --q-len {} --kv-len {} --query-offset {} "
      "--causal {} --dtype {} --ring {} --layout {} --threads {} --seed {}",
      batch, heads, kv_heads, head_dim, q_len, kv_len, query_offset, causal ? 1 : 0, Name(dtype),
      ring, Name(layout), threads, seed);
  if (scale) text += fmt::format(" --scale {}", *scale);
  return text;
}

RingCaseData::RingCaseData(const RingCase& c)
    : case_(c),
      query_(RandomTensor(meter_, c.seed, 1, c.dtype, {c.batch, c.q_len, c.heads, c.head_dim})),
      key_(RandomTensor(meter_, c.seed, 2, c.dtype, {c.batch, c.kv_len, c.kv_heads, c.head_dim})),
      value_(RandomTensor(meter_, c.seed, 3, c.dtype, {c.batch, c.kv_len, c.kv_heads, c.head_dim})),
      output_gradient_(
          RandomTensor(meter_, c.seed, 4, c.dtype, {c.batch, c.q_len, c.heads, c.head_dim})) {}

WholeAttention RingCaseData::whole() const {
  WholeAttention whole;
  whole.scale = case_.scale;
  whole.mask.causal = case_.causal;
  whole.query_offset = case_.query_offset;
  whole.layout = case_.layout;
  whole.key_layout = case_.layout;
  whole.inputs = {query_.view(), key_.view(), value_.view()};
  whole.output_gradient = output_gradient_.view();
  return whole;
}

AttentionCase RingCaseData::attention_case() const {
  return {{case_.scale, {case_.causal}},
          {{case_.query_offset, case_.q_len, 1}},
          {{0, case_.kv_len, 1}},
          query_.view(),
          key_.view(),
          value_.view(),
          output_gradient_.view()};
}

double RingCaseData::LargestColumnWeight() const {
  // dv for output gradients of all ones is the sum of the column's weights.
  MemoryMeter meter;
  Tensor ones(meter, MemoryCategory::kWorkspace, DType::kF32, query_.shape());
  std::fill_n(ones.data<float>(), ones.elements(), 1.0f);
  AttentionCase columns = attention_case();
  columns.output_gradient = std::as_const(ones).view();
  return LargestMagnitude(ComputeAttentionOracle(columns).dv);
}

WholeResults RunCaseOn(Context& context, Communicator& ring, const RingCaseData& data) {
  return AttendWhole(context, ring, data.whole());
}

WholeResults RunCase(const RingCase& ring_case, const RingCaseData& data) {
  MeshOptions mesh;
  mesh.ring = ring_case.ring;
  mesh.threads = ring_case.threads;
  mesh.timeout_seconds = 60;
  WholeResults results;
  Launch(mesh, [&](Rank& rank) {
    WholeResults mine = RunCaseOn(rank.context, rank.ring, data);
    if (rank.world.rank() == 0) results = std::move(mine);
  });
  return results;
}

AttentionResults RunReferenceCaseOn(Context& context, Communicator& ring, const RingCase& ring_case,
                                    const RingCaseData& data) {
  const WholeAttention whole = data.whole();
  const RingAttentionOptions options = OptionsFor(whole, ring.size());
  const RingPlan plan(options.mask, ring_case.batch, ring_case.heads, options.query_positions,
                      options.key_positions);
  const Positions& query_positions = options.query_positions[ring.rank()];
  const Positions& key_positions = options.key_positions[ring.rank()];
  const AttentionShape shape{ring_case.batch,    ring_case.heads,    ring_case.kv_heads,
                             ring_case.head_dim, ring_case.head_dim, ring_case.dtype};
  const int64_t offset = whole.query_offset;
  const ShardRows query = CutRows(context, whole.inputs.query, query_positions, offset);
  const ShardRows key = CutRows(context, whole.inputs.key, key_positions, 0);
  const ShardRows value = CutRows(context, whole.inputs.value, key_positions, 0);
  const ShardRows output_gradient =
      CutRows(context, *whole.output_gradient, query_positions, offset);
  const RingBlocks blocks{plan, options.key_positions, key.view(), value.view()};

  ReferenceShardForward forward(shape, options, query.view(), query_positions);
  RunRingForward(context, ring, blocks, forward);
  ReferenceShardBackward backward(shape, options, query.view(), output_gradient.view(), {},
                                  forward.Output(), forward.LogSumExp(), query_positions);
  Tensor dk(context.meter, MemoryCategory::kActivations, DType::kF32, key.shape());
  Tensor dv(context.meter, MemoryCategory::kActivations, DType::kF32, key.shape());
  RunRingBackward(context, ring, blocks, backward, dk.view(), dv.view());

  const auto join = [&](const std::vector<double>& rows, int64_t batch, int64_t row_elements,
                        bool of_query) {
    return JoinRows<double>(ring, rows, batch, row_elements,
                            of_query ? options.query_positions : options.key_positions,
                            of_query ? offset : 0);
  };
  const int64_t q_row = shape.heads * shape.head_dim;
  const int64_t k_row = shape.kv_heads * shape.head_dim;
  AttentionResults results;
  results.output = join(forward.Output(), shape.batch, q_row, true);
  results.logsumexp = join(forward.LogSumExp(), shape.batch * shape.heads, 1, true);
  results.dq = join(backward.QueryGradient(), shape.batch, q_row, true);
  results.dk = join(backward.KeyGradient(), shape.batch, k_row, false);
  results.dv = join(backward.ValueGradient(), shape.batch, k_row, false);
  return results;
}

bool SameBits(const WholeResults& a, const WholeResults& b) {
  const auto same = [&](std::vector<float> WholeResults::*tensor) {
    const std::vector<float>& left = a.*tensor;
    const std::vector<float>& right = b.*tensor;
    return left.size() == right.size() &&
           (left.empty() ||
            std::memcmp(left.data(), right.data(), left.size() * sizeof(float)) == 0);
  };
  return same(&WholeResults::output) && same(&WholeResults::logsumexp) && same(&WholeResults::dq) &&
         same(&WholeResults::dk) && same(&WholeResults::dv);
}

AttentionResults ToResults(const WholeResults& results) {
  const auto widen = [](const std::vector<float>& values) {
    return std::vector<double>(values.begin(), values.end());
  };
  return {widen(results.output), widen(results.logsumexp), widen(results.dq),    widen(results.dk),
          widen(results.dv),     widen(results.dbias),     widen(results.dsinks)};
}

}  // namespace ringwise
