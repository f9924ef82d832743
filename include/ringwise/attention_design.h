#pragma once

#include <string_view>
#include <vector>

namespace ringwise {

// How a layer is computed, in the order in which they were invented: the same function, with less
// and less memory. With n heads, s tokens a sequence, R ranks, and the compute type:
//
//   vanilla           attention as it is written down [arXiv 1706.03762]: the probabilities of all
//                     pairs exist at once, n s^2 elements
//   memory_efficient  attention tile by tile [arXiv 2112.05682, 2205.14135]; the feed-forward takes
//                     whole sequences
//   blockwise         attention tile by tile and the feed-forward a block of rows at a time
//                     [arXiv 2305.19370]
//   ring              the same with the sequence cut over the ranks of a ring [arXiv 2310.01889];
//                     on one rank it is blockwise
//
// The first three hold whole sequences, so they need a ring of one.
enum class AttentionDesign { kVanilla, kMemoryEfficient, kBlockwise, kRing };

std::string_view Name(AttentionDesign design);
std::vector<AttentionDesign> AttentionDesigns();              // in this order
AttentionDesign ParseAttentionDesign(std::string_view name);  // throws UsageError naming them all
void CheckRingOf(AttentionDesign design, int ring_size);      // throws UsageError if it is too long

}  // namespace ringwise
