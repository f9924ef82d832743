#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ringwise/communicator.h"
#include "ringwise/context.h"
#include "ringwise/ring_attention.h"
#include "ringwise/tensor.h"
#include "ringwise/whole_attention.h"

// Cutting whole tensors into the ranks' rows, and putting rows together again.
namespace ringwise {

// The options of ring attention for `ranks` ranks.
RingAttentionOptions OptionsFor(const WholeAttention& whole, int ranks);

// A rank's rows of a whole tensor: a look at it where they are evenly spaced there, else a copy.
class ShardRows {
 public:
  explicit ShardRows(ConstTensorView view) : view_(view) {}
  explicit ShardRows(Tensor copy) : copy_(std::move(copy)), view_(std::as_const(copy_).view()) {}

  ConstTensorView view() const { return view_; }
  const Shape& shape() const { return view_.shape; }

 private:
  Tensor copy_;
  ConstTensorView view_;
};

// The rows of `whole` along `axis` at `positions`, where the row of position p is row p - offset.
// `whole` must outlive them.
ShardRows CutRows(Context& context, ConstTensorView whole, const Positions& positions,
                  int64_t offset, int axis = 1);

// Puts every rank's rows of a tensor [batch, length, row_elements], f32 or double bytes, together.
// Collective.
template <class T>
std::vector<T> JoinRows(Communicator& ring, std::span<const T> mine, int64_t batch,
                        int64_t row_elements, const std::vector<Positions>& positions,
                        int64_t offset);

}  // namespace ringwise
