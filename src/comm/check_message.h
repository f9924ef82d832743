#pragma once

#include <cstddef>
#include <string_view>

// Argument checks that both communicators share, so that their errors read alike.
namespace ringwise {

// Throws UsageError if the rank (called `what`) or the tag is out of range.
void CheckMessage(std::string_view what, int rank, int tag, int size);

// Throws ShapeError if a message of `found` bytes met a receive of `expected`.
void CheckReceivedSize(size_t expected, size_t found, int source, int tag);

}  // namespace ringwise
