#pragma once

#include <string>

#include "ringwise/whole_attention.h"

namespace ringwise {

// What else the options of `ringwise attention` ask for.
struct AttentionDumps {
  bool dropout_mask = false;
  bool stats = false;
};

// Sets what the JSON file at `path` says; docs/attention.md has the options. A null leaves the
// default. `whole` has its tensors: slices and ALiBi's slopes are held to their shapes. Throws
// FileError (unreadable, not JSON, no object) or UsageError (a key that is unknown or given twice,
// a value of another type or out of range).
void ReadAttentionOptions(const std::string& path, WholeAttention& whole, AttentionDumps& dumps);

}  // namespace ringwise
