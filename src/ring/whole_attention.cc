#include "ring/whole_attention.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace ringwise {

RingAttentionOptions OptionsFor(const WholeAttention& whole, int ranks) {
  RingAttentionOptions options;
  options.scale = whole.scale;
  options.mask = whole.mask;
  for (int rank = 0; rank < ranks; ++rank) {
    options.query_positions.push_back(
        ShardPositions(whole.layout, whole.query.shape[1], ranks, rank, whole.query_offset));
    options.key_positions.push_back(ShardPositions(whole.layout, whole.key.shape[1], ranks, rank));
  }
  return options;
}

Tensor CutRows(Context& context, ConstTensorView whole, const Positions& positions,
               int64_t offset) {
  const int64_t length = Count(positions);
  const Shape& shape = whole.shape;
  Tensor cut(context.meter, MemoryCategory::kActivations, whole.dtype,
             {shape[0], length, shape[2], shape[3]});
  DispatchDType(whole.dtype, [&]<class T>(T) {
    T* to = cut.data<T>();
    for (int64_t b = 0; b < shape[0]; ++b) {
      for (const PositionRun& run : positions) {
        for (int64_t i = 0; i < run.count; ++i) {
          for (int64_t h = 0; h < shape[2]; ++h, to += shape[3]) {
            std::copy_n(whole.at<T>(b, run[i] - offset, h), shape[3], to);
          }
        }
      }
    }
  });
  return cut;
}

template <class T>
std::vector<T> JoinRows(Communicator& ring, std::span<const T> mine, int64_t batch,
                        int64_t row_elements, const std::vector<Positions>& positions,
                        int64_t offset) {
  const auto all = ring.AllGather(std::as_bytes(mine));
  int64_t length = 0;
  for (const Positions& of_rank : positions) length += Count(of_rank);
  std::vector<T> whole(batch * length * row_elements);
  for (int rank = 0; rank < ring.size(); ++rank) {
    const std::byte* from = all[rank].data();
    const size_t row_bytes = row_elements * sizeof(T);
    for (int64_t b = 0; b < batch; ++b) {
      for (const PositionRun& run : positions[rank]) {
        for (int64_t i = 0; i < run.count; ++i, from += row_bytes) {
          if (row_bytes == 0) continue;
          std::memcpy(&whole[(b * length + run[i] - offset) * row_elements], from, row_bytes);
        }
      }
    }
  }
  return whole;
}

template std::vector<float> JoinRows(Communicator&, std::span<const float>, int64_t, int64_t,
                                     const std::vector<Positions>&, int64_t);
template std::vector<double> JoinRows(Communicator&, std::span<const double>, int64_t, int64_t,
                                      const std::vector<Positions>&, int64_t);

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
