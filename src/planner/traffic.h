#pragma once

#include "ringwise/planner.h"

namespace ringwise {

// Bytes of a row that travels around the ring, and what it is: docs/ring_attention.md, What
// travels. Forward moves keys and values, backward whichever takes fewer bytes.
struct RowTraffic {
  bool queries = false;
  double block = 0;
  double gradient = 0;
};
RowTraffic ForwardTraffic(const ModelConfig& model, DType dtype);
RowTraffic BackwardTraffic(const ModelConfig& model, DType dtype);

}  // namespace ringwise
