#include "transformer/linear.h"

#include <utility>

#include "transformer/row_blocks.h"

namespace ringwise {

Linear::Linear(Gemm& gemm, std::vector<Parameter*> weights, DType compute)
    : gemm_(gemm), weights_(std::move(weights)), compute_(compute) {}

void Linear::WeightsChanged() {
  for_outputs_ = PackedMatrix();
  for_inputs_ = PackedMatrix();
}

void Linear::PackIfNeeded(PackedMatrix& packed, Gemm::Orientation orientation) {
  if (packed) return;
  std::vector<ConstTensorView> views;
  for (const Parameter* weight : weights_) views.emplace_back(std::as_const(weight->value).view());
  packed = gemm_.Pack(views, orientation, compute_);
}

void Linear::Forward(ConstTensorView x, TensorView y, bool accumulate) {
  PackIfNeeded(for_outputs_, Gemm::Orientation::kTransposed);
  gemm_.Multiply(x, for_outputs_, y, accumulate);
}

void Linear::BackwardInput(ConstTensorView y_gradient, TensorView x_gradient) {
  PackIfNeeded(for_inputs_, Gemm::Orientation::kAsStored);
  gemm_.Multiply(y_gradient, for_inputs_, x_gradient);
}

void Linear::BackwardWeights(ConstTensorView y_gradient, ConstTensorView x) {
  std::vector<TensorView> gradients;
  for (Parameter* weight : weights_) gradients.push_back(weight->gradient.view());
  // Its workspace grows with the rows.
  ForEachRowBlock(x.shape[0], kBlockRows, [&](int64_t begin, int64_t rows) {
    gemm_.AddWeightGradients(y_gradient.Slice(0, begin, rows), x.Slice(0, begin, rows), gradients);
  });
}

int64_t Linear::outputs() const {
  int64_t sum = 0;
  for (const Parameter* weight : weights_) sum += weight->value.shape()[0];
  return sum;
}

}  // namespace ringwise
