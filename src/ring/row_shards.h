#pragma once

#include <cstdint>
#include <span>
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

// The rows of `whole` [batch, length, heads, head_dim] at `positions`, where the row of position p
// is row p - offset.
Tensor CutRows(Context& context, ConstTensorView whole, const Positions& positions, int64_t offset);

// Puts every rank's rows of a tensor [batch, length, row_elements], f32 or double bytes, together.
// Collective.
template <class T>
std::vector<T> JoinRows(Communicator& ring, std::span<const T> mine, int64_t batch,
                        int64_t row_elements, const std::vector<Positions>& positions,
                        int64_t offset);

}  // namespace ringwise
