#pragma once

#include <initializer_list>

#include "attention/shard_attention.h"
#include "ringwise/communicator.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

struct NamedView {
  const char* name;
  ConstTensorView view;
};
enum class RowsOf { kQuery, kKey };
struct NamedRows {
  const char* name;
  ConstTensorView view;
  RowsOf rows;
};

// Checks this rank's tensors against the options and each other, and the options and shapes against
// those of the other ranks, before anything large travels. `inputs` are query, key and value;
// `others` have the rows and heads of query or key, in any type.
// Collective: if any rank finds an error, every rank throws ShapeError, naming the first such rank.
AttentionShape AgreeOnShapes(Communicator& ring, const RingAttentionOptions& options,
                             std::initializer_list<NamedView> inputs,
                             std::initializer_list<NamedRows> others, ConstTensorView logsumexp);

}  // namespace ringwise
