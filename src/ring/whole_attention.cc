#include "ringwise/whole_attention.h"

#include <utility>

#include "ring/row_shards.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

WholeResults AttendWhole(Context& context, Communicator& ring, const WholeAttention& whole) {
  const RingAttentionOptions options = OptionsFor(whole, ring.size());
  const Positions& query_positions = options.query_positions[ring.rank()];
  const Positions& key_positions = options.key_positions[ring.rank()];
  const int64_t offset = whole.query_offset;
  const auto make = [&](const Shape& shape) {
    return Tensor(context.meter, MemoryCategory::kActivations, DType::kF32, shape);
  };
  const auto join = [&](const Tensor& tensor, int64_t batch, int64_t row_elements, bool of_query) {
    return JoinRows<float>(
        ring, {tensor.data<float>(), static_cast<size_t>(tensor.elements())}, batch, row_elements,
        of_query ? options.query_positions : options.key_positions, of_query ? offset : 0);
  };

  const Tensor query = CutRows(context, whole.inputs.query, query_positions, offset);
  const Tensor key = CutRows(context, whole.inputs.key, key_positions, 0);
  const Tensor value = CutRows(context, whole.inputs.value, key_positions, 0);
  const AttentionInputs inputs{query.view(), key.view(), value.view()};
  const int64_t batch = query.shape()[0];
  const int64_t heads = query.shape()[2];
  const int64_t q_len = query.shape()[1];
  const int64_t value_dim = value.shape()[3];
  Tensor output = make({batch, q_len, heads, value_dim});
  Tensor logsumexp = make({batch, heads, q_len});
  WholeResults results;
  results.forward =
      RingAttentionForward(context, ring, options, inputs, {output.view(), logsumexp.view()});

  results.output = join(output, batch, heads * value_dim, true);
  results.logsumexp = join(logsumexp, batch * heads, 1, true);
  if (!whole.output_gradient) return results;

  const Tensor output_gradient = CutRows(context, *whole.output_gradient, query_positions, offset);
  Tensor dq = make(query.shape());
  Tensor dk = make(key.shape());
  Tensor dv = make(value.shape());
  results.backward = RingAttentionBackward(
      context, ring, options, inputs,
      {std::as_const(output).view(), std::as_const(logsumexp).view(), output_gradient.view()},
      {dq.view(), dk.view(), dv.view()});
  results.dq = join(dq, batch, heads * query.shape()[3], true);
  results.dk = join(dk, batch, key.shape()[2] * key.shape()[3], false);
  results.dv = join(dv, batch, key.shape()[2] * value_dim, false);
  return results;
}

}  // namespace ringwise
