#include "transformer/layer_norm.h"

#include <cmath>
#include <span>

namespace ringwise {

LayerNorm::LayerNorm(Context& context, NormOver over, double epsilon, Parameter& gain,
                     Parameter& bias)
    : context_(context), over_(over), epsilon_(epsilon), gain_(gain), bias_(bias) {}

TensorView LayerNorm::Weights(const Tensor& tensor) const {
  const int64_t width = tensor.shape()[tensor.shape().rank() - 1];
  return {tensor.data<float>(), DType::kF32, {tensor.elements() / width, width}};
}

NormRows LayerNorm::Rows(const PackedShard& shard, const NormSaved& saved, int64_t begin,
                         int64_t count) const {
  const auto part = [&](const auto& values) {
    return std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  };
  NormRows rows{.mean = part(saved.mean),
                .inverse = part(saved.inverse),
                .gain = Weights(gain_.value),
                .weight_rows = {}};
  if (over_documents()) rows.weight_rows = part(shard.row_in_document);
  return rows;
}

void LayerNorm::SumOverDocuments(const PackedShard& shard, std::vector<double>& of_rows) const {
  std::vector<double> sums(shard.documents.size());
  for (size_t row = 0; row < of_rows.size(); ++row) {
    sums[shard.document_of_row[row]] += of_rows[row];
  }
  shard.ring().AllReduceSum(std::span<double>(sums));
  for (size_t row = 0; row < of_rows.size(); ++row) {
    of_rows[row] = sums[shard.document_of_row[row]];
  }
}

NormSaved LayerNorm::Measure(const PackedShard& shard, ConstTensorView x) const {
  const auto rows = static_cast<size_t>(x.shape[0]);
  const auto width = static_cast<double>(x.shape[1]);
  NormSaved saved{std::vector<float>(rows), std::vector<float>(rows)};
  RowMoments(context_, x, saved.mean, saved.inverse);
  if (!over_documents()) {
    for (float& inverse : saved.inverse) {
      inverse = static_cast<float>(1 / std::sqrt(inverse / width + epsilon_));
    }
    return saved;
  }
  // Deviations from the document's mean are those from the row's, and the row's from that.
  std::vector<double> means(saved.mean.begin(), saved.mean.end());
  SumOverDocuments(shard, means);
  std::vector<double> deviations(rows);
  const auto size = [&](size_t row) {
    const PackedDocument& document = shard.documents[shard.document_of_row[row]];
    return static_cast<double>(document.end - document.begin);
  };
  for (size_t row = 0; row < rows; ++row) {
    means[row] /= size(row);
    const double away = saved.mean[row] - means[row];
    deviations[row] = saved.inverse[row] + width * away * away;
  }
  SumOverDocuments(shard, deviations);
  for (size_t row = 0; row < rows; ++row) {
    const double variance = deviations[row] / (size(row) * width);
    saved.mean[row] = static_cast<float>(means[row]);
    saved.inverse[row] = static_cast<float>(1 / std::sqrt(variance + epsilon_));
  }
  return saved;
}

void LayerNorm::Forward(const PackedShard& shard, const NormSaved& saved, int64_t begin,
                        ConstTensorView x, TensorView y) const {
  LayerNormForward(context_, x, Rows(shard, saved, begin, x.shape[0]), Weights(bias_.value), y);
}

void LayerNorm::Backward(const PackedShard& shard, const NormSaved& saved, ConstTensorView x,
                         TensorView gradient) {
  const auto rows = static_cast<size_t>(x.shape[0]);
  const NormRows norm = Rows(shard, saved, 0, x.shape[0]);
  std::vector<float> gradients(rows);
  std::vector<float> products(rows);
  LayerNormBackwardSums(context_, x, norm, gradient, gradients, products);
  // Of each row the means over all that was normalised together.
  for (std::vector<float>* sums : {&gradients, &products}) {
    std::vector<double> totals(sums->begin(), sums->end());
    if (over_documents()) SumOverDocuments(shard, totals);
    for (size_t row = 0; row < rows; ++row) {
      double size = static_cast<double>(x.shape[1]);
      if (over_documents()) {
        const PackedDocument& document = shard.documents[shard.document_of_row[row]];
        size *= static_cast<double>(document.end - document.begin);
      }
      (*sums)[row] = static_cast<float>(totals[row] / size);
    }
  }
  LayerNormBackward(context_, x, norm, gradients, products, gradient, Weights(gain_.gradient),
                    Weights(bias_.gradient));
}

}  // namespace ringwise
