#include "ring/row_shards.h"

#include <algorithm>
#include <cstring>

namespace ringwise {
namespace {

struct Rows {
  const Positions& positions;
  int64_t offset;
  int axis;
};

// Copies what lies below `from` on the axes from `axis` on, and returns where the copy ends.
template <class T>
T* Gather(const ConstTensorView& whole, const T* from, int axis, const Rows& rows, T* to) {
  if (axis == whole.shape.rank()) {
    *to = *from;
    return to + 1;
  }
  if (axis == rows.axis) {
    for (const PositionRun& run : rows.positions) {
      for (int64_t i = 0; i < run.count; ++i) {
        const int64_t row = run[i] - rows.offset;
        to = Gather(whole, from + row * whole.strides[axis], axis + 1, rows, to);
      }
    }
    return to;
  }
  if (axis == whole.shape.rank() - 1) return std::copy_n(from, whole.shape[axis], to);
  for (int64_t i = 0; i < whole.shape[axis]; ++i) {
    to = Gather(whole, from + i * whole.strides[axis], axis + 1, rows, to);
  }
  return to;
}

}  // namespace

RingAttentionOptions OptionsFor(const WholeAttention& whole, int ranks) {
  RingAttentionOptions options;
  static_cast<AttentionOptions&>(options) = whole;
  options.bias_has_one_row = whole.bias && whole.bias->shape[2] == 1;
  for (int rank = 0; rank < ranks; ++rank) {
    options.query_positions.push_back(
        ShardPositions(whole.layout, whole.inputs.query.shape[1], ranks, rank, whole.query_offset));
    options.key_positions.push_back(
        ShardPositions(whole.key_layout, whole.inputs.key.shape[1], ranks, rank));
  }
  return options;
}

ShardRows CutRows(Context& context, ConstTensorView whole, const Positions& positions,
                  int64_t offset, int axis) {
  const int64_t length = Count(positions);
  if (length == 0) return ShardRows(whole.Slice(axis, 0, 0));
  const bool innermost = axis == whole.shape.rank() - 1;
  if (positions.size() == 1 && (positions[0].stride == 1 || !innermost)) {
    const PositionRun& run = positions[0];
    const int64_t span = run.last() - run.start + 1;
    ConstTensorView view = whole.Slice(axis, run.start - offset, span).Slice(axis, 0, length);
    view.strides[axis] *= run.stride;
    return ShardRows(view);
  }
  Tensor copy(context.meter, MemoryCategory::kActivations, whole.dtype,
              whole.Slice(axis, 0, length).shape);
  DispatchDType(whole.dtype, [&]<class T>(T) {
    Gather(whole, whole.data<T>(), 0, {positions, offset, axis}, copy.data<T>());
  });
  return ShardRows(std::move(copy));
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
