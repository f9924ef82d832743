#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/shard_attention.h"
#include "ringwise/ring_attention.h"

namespace ringwise {

// What must be the same on every rank that makes a call, as numbers: large values, such as
// positions and segments, by a fingerprint. Every record has the same fields in the same order.
struct CallField {
  enum class Kind { kNumber, kOptional, kReal, kYesOrNo, kFingerprint };

  const char* name = "";
  int64_t value = 0;
  Kind kind = Kind::kNumber;
};
using CallRecord = std::vector<CallField>;

// `gradients` is null for forward.
CallRecord RecordOf(const AttentionShape& shape, const RingAttentionOptions& options,
                    const AttentionGradients* gradients);

// "found 3 on rank 0 and 4 on rank 1", or for fingerprints that rank 1's differ.
std::string Difference(const CallField& first, const CallField& other, int other_rank);

}  // namespace ringwise
