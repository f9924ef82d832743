#include "ringwise/dropout.h"

#include <algorithm>
#include <cmath>

#include "core/dropout_stream.h"
#include "ringwise/random.h"

namespace ringwise {

DropoutStream::DropoutStream(const Dropout& dropout, int64_t batch, int64_t head)
    : threshold_(static_cast<uint32_t>(
          std::min(std::ceil(dropout.probability * 0x1p32), static_cast<double>(UINT32_MAX)))) {
  const auto low = [](int64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](int64_t value) { return static_cast<uint32_t>(value >> 32); };
  const int64_t sequence = dropout.first_batch + batch;
  const int64_t global_head = dropout.first_head + head;
  const auto words =
      Philox(dropout.seed, {low(sequence), high(sequence), low(global_head), high(global_head)});
  keys_ = {words[0], words[1], words[2]};
}

bool DropoutStream::Keeps(int64_t query_position, int64_t key_position) const {
  auto left = static_cast<uint32_t>(query_position);
  auto right = static_cast<uint32_t>(key_position);
  uint32_t key = Key(query_position, key_position);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product = kMultiplier * left;
    left = static_cast<uint32_t>(product >> 32) ^ key ^ right;
    right = static_cast<uint32_t>(product);
    key += kWeyl;
  }
  return left >= threshold_;
}

bool Keeps(const Dropout& dropout, int64_t batch, int64_t head, int64_t query_position,
           int64_t key_position) {
  return DropoutStream(dropout, batch, head).Keeps(query_position, key_position);
}

}  // namespace ringwise
