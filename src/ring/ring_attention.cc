#include "ringwise/ring_attention.h"

#include "attention/shard_attention.h"
#include "ring/ring_agreement.h"
#include "ring/ring_plan.h"
#include "ring/ring_schedule.h"

namespace ringwise {

void RingAttentionForward(Context& context, Communicator& ring, const RingAttentionOptions& options,
                          ConstTensorView query, ConstTensorView key, ConstTensorView value,
                          TensorView output, TensorView logsumexp) {
  const AttentionShape shape =
      AgreeOnShapes(ring, options, {{"query", query}, {"key", key}, {"value", value}},
                    {{"output", output, RowsOf::kQuery}}, logsumexp);
  const RingPlan plan(options.mask, options.query_positions, options.key_positions);
  const auto shard = MakeShardAttentionForward(context, shape, {options.scale, options.mask}, query,
                                               options.query_positions[ring.rank()]);
  RunRingForward(context, ring, {plan, options.key_positions, key, value}, *shard);
  shard->Finish(output, logsumexp);
}

void RingAttentionBackward(Context& context, Communicator& ring,
                           const RingAttentionOptions& options, ConstTensorView query,
                           ConstTensorView key, ConstTensorView value, ConstTensorView output,
                           ConstTensorView logsumexp, ConstTensorView output_gradient,
                           TensorView query_gradient, TensorView key_gradient,
                           TensorView value_gradient) {
  const AttentionShape shape =
      AgreeOnShapes(ring, options, {{"query", query}, {"key", key}, {"value", value}},
                    {{"output", output, RowsOf::kQuery},
                     {"output_gradient", output_gradient, RowsOf::kQuery},
                     {"query_gradient", query_gradient, RowsOf::kQuery},
                     {"key_gradient", key_gradient, RowsOf::kKey},
                     {"value_gradient", value_gradient, RowsOf::kKey}},
                    logsumexp);
  const RingPlan plan(options.mask, options.query_positions, options.key_positions);
  const auto shard = MakeShardAttentionBackward(context, shape, {options.scale, options.mask},
                                                {query, output, logsumexp, output_gradient},
                                                options.query_positions[ring.rank()]);
  RunRingBackward(context, ring, {plan, options.key_positions, key, value}, *shard, key_gradient,
                  value_gradient);
  shard->Finish(query_gradient);
}

}  // namespace ringwise
