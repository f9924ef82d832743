#pragma once

#include <vector>

#include "kernels/layer_norm.h"
#include "ringwise/classifier.h"
#include "transformer/packed_shard.h"

namespace ringwise {

// What a norm's forward keeps for its backward: of each row, the mean and the inverse deviation of
// what it was normalised with.
struct NormSaved {
  std::vector<float> mean;
  std::vector<float> inverse;
};

// A layer norm [arXiv 1607.06450], y = gain (x - mean) / sqrt(variance + epsilon) + bias, over each
// row's width (gain [width]) or over whole documents, which may lie on several ranks (gain [rows of
// a document, width]).
class LayerNorm {
 public:
  LayerNorm(Context& context, NormOver over, double epsilon, Parameter& gain, Parameter& bias);

  // Of all rows of this rank, x [rows, width]. Collective over the ring if over documents.
  NormSaved Measure(const PackedShard& shard, ConstTensorView x) const;
  // Of rows [begin, begin + x's rows) of those.
  void Forward(const PackedShard& shard, const NormSaved& saved, int64_t begin, ConstTensorView x,
               TensorView y) const;
  // gradient: of y on entry, of x on return; adds the parameters' gradients. All rows. Collective
  // if over documents.
  void Backward(const PackedShard& shard, const NormSaved& saved, ConstTensorView x,
                TensorView gradient);

 private:
  bool over_documents() const { return over_ == NormOver::kDocument; }
  TensorView Weights(const Tensor& tensor) const;  // [1 or rows of a document, width]
  NormRows Rows(const PackedShard& shard, const NormSaved& saved, int64_t begin,
                int64_t count) const;
  // Replaces each row's value by the sum over its document, on all ranks.
  void SumOverDocuments(const PackedShard& shard, std::vector<double>& of_rows) const;

  Context& context_;
  NormOver over_;
  double epsilon_;
  Parameter& gain_;
  Parameter& bias_;
};

}  // namespace ringwise
