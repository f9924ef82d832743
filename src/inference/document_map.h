#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "ringwise/corpus.h"
#include "ringwise/mask.h"

namespace ringwise {

// The documents in sequences of `length` tokens that begin at `begins` in the stream: a document's
// bytes see each other, and the separator after them is alone, since all that is predicted from it
// is how any document begins. Null if every sequence lies in one document: nothing to hide. A
// function of its arguments, so every rank of a ring gets the same. O(documents inside).
std::shared_ptr<const SegmentMap> DocumentMap(const TokenStream& stream,
                                              std::span<const int64_t> begins, int64_t length);

}  // namespace ringwise
