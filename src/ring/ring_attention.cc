#include "ringwise/ring_attention.h"

#include "attention/all_keys.h"
#include "attention/few_queries.h"
#include "attention/shard_attention.h"
#include "ring/backward_choice.h"
#include "ring/ring_agreement.h"
#include "ring/ring_plan.h"
#include "ring/ring_schedule.h"

namespace ringwise {
namespace {

RingCall CallOf(const RingAttentionOptions& options, const AttentionShape& shape) {
  return {options.mask, shape.batch, shape.heads, options.query_positions, options.key_positions};
}

void SumOverRing(Communicator& ring, const TensorView& gradient) {
  ring.AllReduceSum({gradient.data<float>(), static_cast<size_t>(gradient.elements())});
}

}  // namespace

AttentionStats RingAttentionForward(Context& context, Communicator& ring,
                                    const RingAttentionOptions& options,
                                    const AttentionInputs& inputs,
                                    const AttentionOutputs& outputs) {
  const TraceSpan call(context.trace, TraceKind::kPhase, "attention forward");
  const AttentionShape shape = AgreeOnForward(ring, options, inputs, outputs);
  const int rank = ring.rank();
  if (ring.size() == 1) {
    const TraceSpan span(context.trace, TraceKind::kCompute, "forward", {{"block", 0}});
    const Positions& queries = options.query_positions[0];
    const Positions& keys = options.key_positions[0];
    const auto attend =
        SuitsFewQueries(shape, options, Count(queries), keys) ? &AttendFewQueries : &AttendAllKeys;
    return attend(context, shape, options, inputs, queries, keys, outputs);
  }
  const auto shard = MakeShardAttentionForward(context, shape, options, inputs.query,
                                               options.query_positions[rank], outputs);
  const RingPlan plan(CallOf(options, shape), Travelling::kKeys, [&](int64_t rows) {
    return TravelBytes{shard->BlockBytes(rows), 0};
  });
  RunRingForward(context, ring, plan, inputs.key, inputs.value, options.key_positions[rank],
                 *shard);
  const TraceSpan finish(context.trace, TraceKind::kCompute, "finish");
  shard->Finish();
  return shard->stats();
}

AttentionStats RingAttentionBackward(Context& context, Communicator& ring,
                                     const RingAttentionOptions& options,
                                     const AttentionInputs& inputs, const AttentionSaved& saved,
                                     const AttentionGradients& gradients) {
  const TraceSpan call(context.trace, TraceKind::kPhase, "attention backward");
  const AttentionShape shape = AgreeOnBackward(ring, options, inputs, saved, gradients);
  const int rank = ring.rank();
  const BackwardChoice choice =
      ChooseBackward(CallOf(options, shape), shape, options.bias.has_value());
  const auto shard =
      MakeShardAttentionBackward(context,
                                 {shape, options, inputs, saved, gradients,
                                  options.query_positions[rank], options.key_positions[rank]},
                                 choice.travelling);
  RunRingBackward(context, ring, choice.plan, *shard);
  {
    const TraceSpan finish(context.trace, TraceKind::kCompute, "finish");
    shard->Finish();
  }
  if (gradients.sinks) SumOverRing(ring, *gradients.sinks);
  if (gradients.bias && options.bias_has_one_row) SumOverRing(ring, *gradients.bias);
  return shard->stats();
}

}  // namespace ringwise
