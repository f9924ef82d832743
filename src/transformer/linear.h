#pragma once

#include <vector>

#include "kernels/gemm.h"
#include "ringwise/llama.h"

namespace ringwise {

// A linear layer of one or more weights [out_i, in] that share their input; their outputs stand
// side by side:
//   y = x [w_0; w_1; ...]^T        x [rows, in], y [rows, sum of out_i]
// Keeps copies of the weights in the compute type, packed for the products, made at first use after
// WeightsChanged. The parameters must outlive it and stay where they are.
class Linear {
 public:
  Linear(Gemm& gemm, std::vector<Parameter*> weights, DType compute);

  void WeightsChanged();

  // y (=, or += if `accumulate`) x w^T. y in the compute type or f32.
  void Forward(ConstTensorView x, TensorView y, bool accumulate = false);
  // dx = dy w
  void BackwardInput(ConstTensorView y_gradient, TensorView x_gradient);
  // dw_i += dy_i^T x, into the parameters' gradients.
  void BackwardWeights(ConstTensorView y_gradient, ConstTensorView x);

  int64_t outputs() const;

 private:
  void PackIfNeeded(PackedMatrix& packed, Gemm::Orientation orientation);

  Gemm& gemm_;
  std::vector<Parameter*> weights_;
  DType compute_;
  PackedMatrix for_outputs_;
  PackedMatrix for_inputs_;
};

}  // namespace ringwise
