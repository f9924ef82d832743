#pragma once

#include <vector>

#include "ringwise/context.h"
#include "ringwise/memory.h"
#include "ringwise/tensor.h"

namespace ringwise {

// A gradient of four axes that several parts add up to, in f32: in the tensor that was asked for if
// that is f32, else in memory of its own (ring buffers) and rounded once, at the end.
class GradientSum {
 public:
  // `gradient` must outlive it, and holds nothing of use before Finish.
  GradientSum(Context& context, const TensorView& gradient);

  const TensorView& sum() const { return sum_; }  // f32, zero at first
  // sum[:, rows] += part.
  void Add(Range rows, const ConstTensorView& part);
  void Finish();

 private:
  // Calls visit(batch, row, head) for all of a tensor of this shape, dealt to the team.
  template <class Visit>
  void ForEachRow(const Shape& shape, const Visit& visit);

  Context& context_;
  TensorView gradient_;
  Buffer memory_;
  TensorView sum_;
};

}  // namespace ringwise
