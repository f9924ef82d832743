#include "ringwise/ring_attention.h"

#include "attention/shard_attention.h"
#include "ring/ring_agreement.h"
#include "ring/ring_plan.h"
#include "ring/ring_schedule.h"

namespace ringwise {
namespace {

RingPlan PlanFor(const RingAttentionOptions& options, const AttentionShape& shape) {
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
  const RingPlan plan = PlanFor(options, shape);
  const auto shard = MakeShardAttentionForward(context, shape, options, inputs.query,
                                               options.query_positions[ring.rank()]);
  RunRingForward(context, ring, {plan, options.key_positions, inputs.key, inputs.value}, *shard);
  const TraceSpan finish(context.trace, TraceKind::kCompute, "finish");
  shard->Finish(outputs);
  return shard->stats();
}

AttentionStats RingAttentionBackward(Context& context, Communicator& ring,
                                     const RingAttentionOptions& options,
                                     const AttentionInputs& inputs, const AttentionSaved& saved,
                                     const AttentionGradients& gradients) {
  const TraceSpan call(context.trace, TraceKind::kPhase, "attention backward");
  const AttentionShape shape = AgreeOnBackward(ring, options, inputs, saved, gradients);
  const RingPlan plan = PlanFor(options, shape);
  const auto shard =
      MakeShardAttentionBackward(context, shape, options, inputs.query, saved,
                                 options.query_positions[ring.rank()], gradients.bias);
  RunRingBackward(context, ring, {plan, options.key_positions, inputs.key, inputs.value}, *shard,
                  gradients.key, gradients.value);
  {
    const TraceSpan finish(context.trace, TraceKind::kCompute, "finish");
    shard->Finish(gradients);
  }
  if (gradients.sinks) SumOverRing(ring, *gradients.sinks);
  if (gradients.bias && options.bias_has_one_row) SumOverRing(ring, *gradients.bias);
  return shard->stats();
}

}  // namespace ringwise
