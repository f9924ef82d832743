#include "attention/shard_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/tiling.h"
#include "ringwise/random.h"
#include "ringwise/thread_team.h"

namespace ringwise {
namespace {

std::string ToString(const Positions& positions) {
  std::string text;
  for (const PositionRun& run : positions) {
    text += fmt::format(" {}+{}*{}", run.start, run.count, run.stride);
  }
  return text;
}

// Keys for the bias to have a column for each of.
int64_t PastLastPosition(const Positions& positions) {
  int64_t end = 0;
  for (const PositionRun& run : positions) {
    if (run.count > 0) end = std::max(end, run.last() + 1);
  }
  return end;
}

std::string CheckBf16(AttentionResults results, const AttentionOracle& oracle,
                      const AttentionOracle& plain) {
  for (double& value : results.output) {
    value = static_cast<double>(static_cast<float>(bf16(static_cast<float>(value))));
  }
  for (const MeasuredTensor& m : MeasuredTensors()) {
    const std::vector<double>& found = results.*m.tensor;
    const std::vector<double>& expected = oracle.*m.tensor;
    if (found.empty() && m.tensor != &AttentionResults::output) continue;
    // Nobody need be better than f32, whose bound this is: with one key the plain formula cancels
    // to exactly 0. logsumexp never meets bf16 after the inputs.
    const double floor = (m.cancels ? 2e-6 : 1e-5) * LargestMagnitude(oracle.*m.scale);
    const bool in_f32 = m.tensor == &AttentionResults::logsumexp;
    const double rms = in_f32 ? 0 : 1.1 * RmsError(plain.*m.tensor, expected);
    const double largest = in_f32 ? 0 : 2 * LargestError(plain.*m.tensor, expected);
    if (RmsError(found, expected) > std::max(floor, rms) ||
        LargestError(found, expected) > std::max(floor, largest)) {
      return fmt::format("{}: RMS error {:.3g} of {:.3g}, largest {:.3g} of {:.3g}, floor {:.3g}",
                         m.name, RmsError(found, expected), rms, LargestError(found, expected),
                         largest, floor);
    }
  }
  return "";
}

// Full of NaN, so that what is not written shows.
Tensor Unwritten(MemoryMeter& meter, DType dtype, const Shape& shape) {
  Tensor tensor(meter, MemoryCategory::kGradients, dtype, shape);
  DispatchDType(dtype, [&]<class T>(T) {
    std::fill_n(tensor.data<T>(), tensor.elements(), T(std::nanf("")));
  });
  return tensor;
}

// The blocks in which a case's rows travel in backward.
std::vector<Range> TravellingRows(const ShardCase& c) {
  std::vector<Range> blocks;
  int64_t begin = 0;
  const auto add = [&](int64_t count) {
    blocks.push_back({begin, begin + count});
    begin += count;
  };
  if (c.travelling == Travelling::kKeys) {
    for (const Positions& keys : c.key_blocks) add(Count(keys));
  } else {
    for (const RowBlock& block : CutIntoBlocks(c.queries, kBlockUnit)) add(block.count());
  }
  return blocks;
}

void ComputeGradients(Context& context, const ShardCase& c, const ShardInputs& inputs,
                      AttentionSaved saved, const ProgressHook& progress, ShardResults& results) {
  MemoryMeter& meter = context.meter;
  Tensor dq = Unwritten(meter, c.dtype, inputs.query.shape);
  Tensor dk = Unwritten(meter, c.dtype, inputs.key.shape);
  Tensor dv = Unwritten(meter, c.dtype, inputs.value.shape);
  Tensor dbias, dsinks;
  AttentionGradients views{dq.view(), dk.view(), dv.view()};
  if (inputs.bias) {
    dbias = Unwritten(meter, DType::kF32, inputs.bias->shape);
    views.bias = dbias.view();
  }
  if (inputs.sinks) {
    dsinks = Unwritten(meter, DType::kF32, inputs.sinks->shape);
    views.sinks = dsinks.view();
  }
  if (inputs.logsumexp_gradient) {
    saved.logsumexp_gradient = ConstTensorView(*inputs.logsumexp_gradient);
  }
  const auto gradients = MakeShardAttentionBackward(context,
                                                    {c.shape(),
                                                     OptionsOf(c, inputs),
                                                     {inputs.query, inputs.key, inputs.value},
                                                     saved,
                                                     views,
                                                     c.queries,
                                                     c.keys()},
                                                    c.travelling);
  const bool keys_travel = c.travelling == Travelling::kKeys;
  const Positions all = keys_travel ? c.keys() : c.queries;
  const std::vector<Range> blocks = TravellingRows(c);
  for (size_t b = 0; b < blocks.size(); ++b) {
    if (b % 2 == 1) {
      gradients->AttendOwn(blocks[b], progress);
      continue;
    }
    const TravelBytes bytes = gradients->BytesOf(blocks[b].size());
    Buffer block(meter, MemoryCategory::kRingBuffers, bytes.block);
    Buffer sum(meter, MemoryCategory::kRingBuffers, bytes.gradient);
    std::fill(sum.bytes().begin(), sum.bytes().end(), std::byte{0});
    gradients->Pack(blocks[b], block.bytes());
    gradients->Attend(block.bytes(), PositionsOf(all, blocks[b]), sum.bytes(), progress);
    gradients->AddGradient(blocks[b], sum.bytes());
  }
  gradients->Finish();
  results.backward = gradients->stats();
  results.dq = ToDoubles(dq.view());
  results.dk = ToDoubles(dk.view());
  results.dv = ToDoubles(dv.view());
  if (inputs.bias) results.dbias = ToDoubles(dbias.view());
  if (inputs.sinks) results.dsinks = ToDoubles(dsinks.view());
}

}  // namespace

Positions ShardCase::keys() const {
  Positions all;
  for (const Positions& block : key_blocks) all.insert(all.end(), block.begin(), block.end());
  return all;
}

std::string ShardCase::ToString() const {
  std::string text = fmt::format(
      "seed {}, batch {}, heads {}, kv_heads {}, head_dim {}, value_dim {}, {}, threads {}, "
      "softcap {}, dropout {}{}{}{}{}{}{}",
      seed, batch, heads, kv_heads, head_dim, shape().value_dim, Name(dtype), threads,
      options.softcap, options.dropout.probability, options.mask.causal ? ", causal" : "",
      options.mask.window_left || options.mask.window_right ? ", window" : "",
      options.mask.segments ? ", segments" : "", options.mask.slices ? ", slices" : "",
      options.alibi_slopes.empty() ? "" : ", alibi", sinks ? ", sinks" : "",
      logsumexp_gradient ? ", dlogsumexp" : "");
  if (bias) text += fmt::format(", bias {:d}{:d}{:d}", (*bias)[0], (*bias)[1], (*bias)[2]);
  text += ", queries" + ringwise::ToString(queries);
  for (const Positions& block : key_blocks) text += ", keys" + ringwise::ToString(block);
  return text;
}

ShardInputs::ShardInputs(const ShardCase& c) {
  const AttentionShape shape = c.shape();
  const int64_t kv_len = Count(c.keys());
  query = Make(c.dtype, {c.batch, c.q_len(), c.heads, shape.head_dim}, c.seed);
  output_gradient = Make(c.dtype, {c.batch, c.q_len(), c.heads, shape.value_dim}, c.seed);
  key = Make(c.dtype, {c.batch, kv_len, c.kv_heads, shape.head_dim}, c.seed);
  value = Make(c.dtype, {c.batch, kv_len, c.kv_heads, shape.value_dim}, c.seed);
  if (c.bias) {
    const auto& [by_batch, by_head, by_query] = *c.bias;
    bias = Make(DType::kF32,
                {by_batch ? c.batch : 1, by_head ? c.heads : 1, by_query ? c.q_len() : 1,
                 PastLastPosition(c.keys())},
                c.seed);
  }
  if (c.sinks) sinks = Make(DType::kF32, {c.heads}, c.seed);
  if (c.logsumexp_gradient) {
    logsumexp_gradient = Make(DType::kF32, {c.batch, c.heads, c.q_len()}, c.seed);
  }
}

TensorView ShardInputs::Make(DType dtype, Shape shape, uint64_t seed) {
  const bool strided = shape.rank() == 4;
  const Shape wide = strided ? Shape{shape[0], shape[1], 2 * shape[2], shape[3]} : shape;
  Tensor tensor(meter_, MemoryCategory::kWorkspace, dtype, wide);
  Random random(seed, tensors_.size());
  DispatchDType(dtype, [&]<class T>(T) {
    for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<T>()[i] = T(random.Normal());
  });
  tensors_.push_back(std::move(tensor));
  const TensorView view = tensors_.back().view();
  return strided ? view.Slice(2, tensors_.size() % 2 == 0 ? 0 : shape[2], shape[2]) : view;
}

AttentionOptions OptionsOf(const ShardCase& c, const ShardInputs& inputs) {
  AttentionOptions options = c.options;
  if (inputs.bias) options.bias = ConstTensorView(*inputs.bias);
  if (inputs.sinks) options.sinks = ConstTensorView(*inputs.sinks);
  return options;
}

AttentionCase ForOracle(const ShardCase& c, const ShardInputs& inputs, bool backward) {
  AttentionCase attention{.options = OptionsOf(c, inputs),
                          .query_positions = c.queries,
                          .key_positions = c.keys(),
                          .query = inputs.query,
                          .key = inputs.key,
                          .value = inputs.value};
  if (!backward) return attention;
  attention.output_gradient = ConstTensorView(inputs.output_gradient);
  if (inputs.logsumexp_gradient) {
    attention.logsumexp_gradient = ConstTensorView(*inputs.logsumexp_gradient);
  }
  return attention;
}

ShardResults ComputeShard(const ShardCase& c, const ShardInputs& inputs, bool backward,
                          const ProgressHook& progress) {
  MemoryMeter meter;
  ThreadTeam team(c.threads);
  Context context{team, meter};
  ShardResults results;
  // Kept in f32 for backward, as its delta wants; the check rounds.
  Tensor output(meter, MemoryCategory::kActivations, DType::kF32,
                {c.batch, c.q_len(), c.heads, c.shape().value_dim});
  Tensor logsumexp(meter, MemoryCategory::kActivations, DType::kF32, {c.batch, c.heads, c.q_len()});
  const auto forward =
      MakeShardAttentionForward(context, c.shape(), OptionsOf(c, inputs), inputs.query, c.queries,
                                {output.view(), logsumexp.view()});
  int64_t begin = 0;
  for (const Positions& keys : c.key_blocks) {
    const int64_t count = Count(keys);
    Buffer block(meter, MemoryCategory::kRingBuffers, forward->BlockBytes(count));
    forward->Pack(inputs.key.Slice(1, begin, count), inputs.value.Slice(1, begin, count), keys,
                  block.bytes());
    forward->Attend(block.bytes(), keys, progress);
    begin += count;
  }
  forward->Finish();
  results.output = ToDoubles(output.view());
  results.logsumexp = ToDoubles(logsumexp.view());
  results.forward = forward->stats();
  if (backward) {
    ComputeGradients(
        context, c, inputs,
        {std::as_const(output).view(), std::as_const(logsumexp).view(), inputs.output_gradient},
        progress, results);
  }
  return results;
}

std::string ComputeAndCheckShard(const ShardCase& c) {
  const ShardInputs inputs(c);
  ShardCase other = c;
  other.travelling = Travelling::kQueries;
  const ShardResults results = ComputeShard(c, inputs);
  std::string problem = CheckShard(c, inputs, results);
  if (!problem.empty() || c.bias) return problem;
  problem = CheckShard(other, inputs, ComputeShard(other, inputs));
  return problem.empty() ? "" : problem + ", travelling queries";
}

std::string CheckShard(const ShardCase& c, const ShardInputs& inputs,
                       const AttentionResults& results) {
  const bool backward = !(results.dq.empty() && results.dk.empty() && results.dv.empty());
  const AttentionCase attention = ForOracle(c, inputs, backward);
  const AttentionOracle oracle = ComputeAttentionOracle(attention);
  if (c.dtype == DType::kF32) return CheckAttention(results, oracle, oracle, {});
  return CheckBf16(results, oracle, ComputePlainBf16Attention(attention));
}

}  // namespace ringwise
