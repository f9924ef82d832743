#pragma once

#include <cstdint>
#include <vector>

namespace ringwise {

// Global positions start, start + stride, ..., `count` of them. stride >= 1.
struct PositionRun {
  int64_t start = 0;
  int64_t count = 0;
  int64_t stride = 1;

  int64_t operator[](int64_t index) const { return start + index * stride; }
  int64_t last() const { return start + (count - 1) * stride; }
  bool operator==(const PositionRun&) const = default;
};

// Where the rows of a shard stand in the whole sequence: local index -> global position, as a few
// runs, in order. Contiguous, striped and zigzag layouts, a query offset, decoding and cross
// attention are all this one type. Empty runs are legal.
using Positions = std::vector<PositionRun>;

int64_t Count(const Positions& positions);
int64_t At(const Positions& positions, int64_t local_index);  // the global position

}  // namespace ringwise
