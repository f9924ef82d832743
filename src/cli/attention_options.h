#pragma once

#include <string>

#include "ringwise/whole_attention.h"

namespace ringwise {

// Sets what the JSON file at `path` says: causal, scale and query_offset, each optional. A null
// leaves the default. Throws FileError (unreadable, not JSON, no object) or UsageError (a key that
// is unknown or given twice, a value of another type or out of range).
void ReadAttentionOptions(const std::string& path, WholeAttention& whole);

}  // namespace ringwise
