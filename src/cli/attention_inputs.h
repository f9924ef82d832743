#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ringwise/safetensors.h"
#include "ringwise/tensor.h"
#include "ringwise/whole_attention.h"

namespace ringwise {

// The tensors of an attention call's inputs file, checked against each other: q, k, v, and perhaps
// bias, sinks, q_segment_ids and k_segment_ids, dout, dlogsumexp. docs/attention.md has their
// shapes and types.
class AttentionTensors {
 public:
  // `dtype`: what q, k, v and dout become; none: what they are. Throws FileError (unreadable, a
  // tensor missing), ShapeError (a shape or type that does not fit, a tensor that is not known).
  AttentionTensors(const std::string& path, std::optional<DType> dtype);

  // Points the call at the tensors, which must outlive it, and gives it the query offset that is
  // the default.
  void SetTensors(WholeAttention& whole) const;
  // Gives the call its documents, at the positions that its query offset says.
  void SetSegments(WholeAttention& whole) const;

 private:
  struct Extents {
    int64_t batch, q_len, k_len, heads, kv_heads, head_dim, value_dim;
  };

  void ReadQueryKeyValue(const SafetensorsFile& file, DType dtype);
  void ReadOptional(const SafetensorsFile& file, DType dtype);

  MemoryMeter meter_;
  Extents extents_{};
  Tensor query_, key_, value_;
  std::optional<Tensor> bias_, sinks_, output_gradient_, logsumexp_gradient_;
  std::vector<int32_t> query_ids_, key_ids_;
  bool has_ids_ = false;
};

}  // namespace ringwise
