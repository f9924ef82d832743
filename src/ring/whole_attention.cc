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
  const Shape& q_shape = whole.query.shape;
  const Shape& k_shape = whole.key.shape;
  const auto make = [&](const Shape& shape) {
    return Tensor(context.meter, MemoryCategory::kActivations, DType::kF32, shape);
  };
  const auto join = [&](const Tensor& tensor, int64_t batch, int64_t row_elements, bool of_query) {
    return JoinRows<float>(
        ring, {tensor.data<float>(), static_cast<size_t>(tensor.elements())}, batch, row_elements,
        of_query ? options.query_positions : options.key_positions, of_query ? offset : 0);
  };

  const Tensor query = CutRows(context, whole.query, query_positions, offset);
  const Tensor key = CutRows(context, whole.key, key_positions, 0);
  const Tensor value = CutRows(context, whole.value, key_positions, 0);
  Tensor output = make(query.shape());
  Tensor logsumexp = make({q_shape[0], q_shape[2], query.shape()[1]});
  RingAttentionForward(context, ring, options, query.view(), key.view(), value.view(),
                       output.view(), logsumexp.view());

  WholeResults results;
  const int64_t q_row = q_shape[2] * q_shape[3];
  results.output = join(output, q_shape[0], q_row, true);
  results.logsumexp = join(logsumexp, q_shape[0] * q_shape[2], 1, true);
  if (!whole.output_gradient) return results;

  const Tensor output_gradient = CutRows(context, *whole.output_gradient, query_positions, offset);
  Tensor dq = make(query.shape());
  Tensor dk = make(key.shape());
  Tensor dv = make(key.shape());
  RingAttentionBackward(context, ring, options, query.view(), key.view(), value.view(),
                        std::as_const(output).view(), std::as_const(logsumexp).view(),
                        output_gradient.view(), dq.view(), dk.view(), dv.view());
  const int64_t k_row = k_shape[2] * k_shape[3];
  results.dq = join(dq, q_shape[0], q_row, true);
  results.dk = join(dk, k_shape[0], k_row, false);
  results.dv = join(dv, k_shape[0], k_row, false);
  return results;
}

}  // namespace ringwise
