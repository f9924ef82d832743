#pragma once

#include "attention/attention_oracle.h"
#include "ring/ring_case.h"
#include "ringwise/tensor.h"
#include "ringwise/whole_attention.h"

namespace ringwise {

enum class CaseTensor {
  kQuery = 1,
  kKey,
  kValue,
  kOutputGradient,
  kLogSumExpGradient,
  kBias,
  kSinks
};

// The tensors and the mask of a case, drawn from its seed: normal random numbers, those of query,
// key, value and output gradient rounded to its dtype. Where results have so few elements that all
// of them may happen to cancel, and then be no scale of their own error, numbers are positive.
class RingCaseData {
 public:
  explicit RingCaseData(const RingCase& ring_case);

  TensorView tensor(CaseTensor which);  // to be written to; the case must have it

  WholeAttention whole() const;          // to be attended on a ring
  AttentionCase attention_case() const;  // to be given to the oracle

 private:
  struct Positive {
    bool scores = false;  // query and key
    bool values = false;  // all else
  };
  static Positive ChoosePositive(const RingCase& ring_case, const Mask& mask);

  AttentionOptions Options() const;
  Tensor Draw(CaseTensor which, DType dtype, Shape shape);

  RingCase case_;
  MemoryMeter meter_;
  Mask mask_;
  Positive positive_;
  Tensor query_, key_, value_, output_gradient_, logsumexp_gradient_, bias_, sinks_;
};

}  // namespace ringwise
