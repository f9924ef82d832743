#include <fmt/format.h>

#include <algorithm>

#include "ringwise/corpus.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

// Names the uses of randomness here, so that they do not repeat those of others.
constexpr uint64_t kShiftStream = 0x636f6e7465787430;
constexpr uint64_t kShuffleKey = 0x636f6e7465787431;

// Element `index` of a random permutation of [0, count), without storing it: a Feistel network
// permutes the smallest square power of two that is not below count, and is applied again until it
// lands inside (a few times at most, on average below four).
uint64_t Permuted(uint64_t key, uint64_t epoch, uint64_t index, uint64_t count) {
  int half_bits = 1;
  while (half_bits < 32 && uint64_t{1} << (2 * half_bits) < count) ++half_bits;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  do {
    uint64_t left = index >> half_bits;
    uint64_t right = index & mask;
    for (uint32_t round = 0; round < 4; ++round) {
      const std::array<uint32_t, 4> words =
          Philox(key, {static_cast<uint32_t>(right), round, static_cast<uint32_t>(epoch),
                       static_cast<uint32_t>(epoch >> 32)});
      left ^= words[0] & mask;
      std::swap(left, right);
    }
    index = left << half_bits | right;
  } while (index >= count);
  return index;
}

}  // namespace

ContextSampler::ContextSampler(int64_t stream_tokens, int64_t context, uint64_t seed)
    : stream_tokens_(stream_tokens), context_(context), seed_(seed) {
  if (context < 1) throw UsageError(fmt::format("the context must be at least 1, got {}", context));
  if (stream_tokens < context + 1) {
    throw UsageError(fmt::format(
        "too little text: {} tokens to train on, a context of {} needs {}; give more text or a "
        "shorter context",
        stream_tokens, context, context + 1));
  }
}

int64_t ContextSampler::Begin(int64_t index) const {
  // One window fewer than fit leaves room to shift them all by up to a context.
  const int64_t windows = std::max<int64_t>(1, (stream_tokens_ - 1) / context_ - 1);
  const auto epoch = static_cast<uint64_t>(index / windows);
  const int64_t room = stream_tokens_ - 1 - windows * context_;
  const auto shift = static_cast<int64_t>(
      Random(seed_, kShiftStream + epoch).Below(static_cast<uint64_t>(room) + 1));
  const uint64_t window =
      Permuted(seed_ ^ kShuffleKey, epoch, static_cast<uint64_t>(index % windows),
               static_cast<uint64_t>(windows));
  return shift + static_cast<int64_t>(window) * context_;
}

}  // namespace ringwise
