#pragma once

#include <cstdint>
#include <optional>

#include "attention/partial_attention.h"
#include "ringwise/attention_options.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

// Turns rows that have attended all their keys into results: adds the sinks, divides, and undoes
// dropout's thinning. A row that saw nothing gets an output of zero.
class RowFinisher {
 public:
  RowFinisher(const AttentionOptions& options, const AttentionOutputs& outputs)
      : sinks_(options.sinks),
        kept_factor_(static_cast<float>(1 / (1 - options.dropout.probability))),
        outputs_(outputs) {}

  // The rows of one head from local row `first` on.
  void Finish(const PartialAttention& state, int64_t batch, int64_t head, int64_t first) const;

 private:
  std::optional<ConstTensorView> sinks_;
  float kept_factor_;
  AttentionOutputs outputs_;
};

}  // namespace ringwise
