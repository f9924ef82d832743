#pragma once

#include "attention/attention_oracle.h"
#include "ring/ring_case_data.h"
#include "ringwise/launch.h"
#include "ringwise/whole_attention.h"

// A case computed: forward and backward.
namespace ringwise {

// By the tiled kernels on a ring of `ring` ranks, threads of this process.
WholeResults RunCase(const RingCase& ring_case, const RingCaseData& data);
// The same on the ranks of `ring`, whatever they are.
WholeResults RunCaseOn(Context& context, Communicator& ring, const RingCaseData& data);

// By the double reference through the same schedule.
AttentionResults RunReferenceCase(const RingCase& ring_case, const RingCaseData& data);
AttentionResults RunReferenceCaseOn(Context& context, Communicator& ring, const RingCase& ring_case,
                                    const RingCaseData& data);

// NaN included.
bool SameBits(const WholeResults& a, const WholeResults& b);

AttentionResults ToResults(const WholeResults& results);

}  // namespace ringwise
