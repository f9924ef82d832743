#include "ring/row_shards.h"

#include <algorithm>
#include <cstring>

namespace ringwise {

RingAttentionOptions OptionsFor(const WholeAttention& whole, int ranks) {
  RingAttentionOptions options;
  static_cast<AttentionOptions&>(options) = whole;
  for (int rank = 0; rank < ranks; ++rank) {
    options.query_positions.push_back(
        ShardPositions(whole.layout, whole.inputs.query.shape[1], ranks, rank, whole.query_offset));
    options.key_positions.push_back(
        ShardPositions(whole.key_layout, whole.inputs.key.shape[1], ranks, rank));
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

}  // namespace ringwise
