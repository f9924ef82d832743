#include "ring/whole_checks.h"

#include <fmt/format.h>

#include "attention/attention_checks.h"
#include "attention/option_checks.h"
#include "ringwise/error.h"

namespace ringwise {

void CheckWhole(const WholeAttention& whole) {
  const AttentionShape shape = CheckedShapeOf(whole.inputs);
  const int64_t q_len = whole.inputs.query.shape[1];
  const int64_t k_len = whole.inputs.key.shape[1];
  CheckKeyValue(whole.inputs.key, whole.inputs.value, shape, k_len);
  CheckOptions(whole, shape);
  if (whole.bias) {
    const bool one_row = whole.bias->shape.rank() == 4 && whole.bias->shape[2] == 1;
    CheckBias(*whole.bias, shape, {one_row ? 1 : q_len, 0, k_len});
  }
  if (whole.sinks) CheckSinks(*whole.sinks, shape);
  if (whole.output_gradient) {
    CheckQueryRows("output gradient", *whole.output_gradient, shape, q_len, shape.value_dim);
    CheckDType("output gradient", *whole.output_gradient, shape.dtype);
  }
  if (!whole.logsumexp_gradient) return;
  CheckLogSumExp("logsumexp gradient", *whole.logsumexp_gradient, shape, q_len);
  if (!whole.output_gradient) {
    throw UsageError("attention: a logsumexp gradient needs an output gradient beside it");
  }
}

}  // namespace ringwise
