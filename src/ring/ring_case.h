#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "ringwise/dtype.h"
#include "ringwise/layout.h"

namespace ringwise {

// One case of ring attention as data, for tests: what the unit tests list, the MPI test repeats and
// the proof draws at random. The tensors and masks themselves follow from it: see RingCaseData.
struct RingCase {
  int64_t batch = 1;
  int64_t heads = 2;
  int64_t kv_heads = 1;
  int64_t head_dim = 4;
  std::optional<int64_t> value_dim;  // none: head_dim
  int64_t q_len = 8;                 // of the whole sequence
  int64_t kv_len = 8;                // likewise
  int64_t query_offset = 0;

  bool causal = true;
  std::optional<int64_t> window_left, window_right;
  int64_t causal_block = 0;
  int64_t documents = 0;          // random documents of so many ids, with padding; 0: none
  std::optional<int64_t> slices;  // so many random slices, some of one head; none: everything

  std::optional<double> scale;
  double softcap = 0;
  double alibi = 0;  // the first head's slope, the n-th a n-th of it with signs in turn; 0: none
  // The axes along which the bias differs: letters of "bhq", "k" if none of them; empty: no bias.
  std::string bias;
  int64_t bias_hidden = 0;  // percent of the bias that is -inf
  bool sinks = false;
  double dropout = 0;
  bool logsumexp_gradient = false;

  DType dtype = DType::kF32;
  int ring = 1;
  Layout layout = Layout::kZigzag;
  std::optional<Layout> key_layout;  // none: layout
  int threads = 1;
  uint64_t seed = 1;

  int64_t ValueDim() const { return value_dim.value_or(head_dim); }

  // As flags of attention_proof_probe, to run it again: those that differ from the defaults.
  std::string ToString() const;
};

// The case of such flags, by name. Throws UsageError for an unknown one or a value that is none.
RingCase ParseRingCase(const std::map<std::string, std::string>& flags);

}  // namespace ringwise
