#pragma once

#include <span>
#include <vector>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Products of a single row with weights [out_i, in], whose results lie one after another: reads the
// weights once, where they are (f32), or a copy rounded to bf16, which is half as much to read.
class RowProduct {
 public:
  // `weights` must outlive this if compute is f32.
  RowProduct(Context& context, std::span<const ConstTensorView> weights, DType compute);

  // output [sum of out_i] (=, or += if `accumulate`) weights x. Over the team, each element by one
  // thread: the same bits for any team.
  void Multiply(const float* x, float* output, bool accumulate = false) const;

 private:
  struct Part {
    ConstTensorView weight;
    int64_t first = 0;  // row of the output
  };
  Context& context_;
  DType compute_;
  int64_t rows_ = 0;
  std::vector<Part> parts_;
  std::vector<Tensor> copies_;
};

}  // namespace ringwise
