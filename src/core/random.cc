#include "ringwise/random.h"

#include <cmath>
#include <numbers>

namespace ringwise {

std::array<uint32_t, 4> Philox(uint64_t key, const std::array<uint32_t, 4>& counter) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53;
  constexpr uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9;
  constexpr uint32_t kWeyl1 = 0xBB67AE85;
  std::array<uint32_t, 4> c = counter;
  auto key0 = static_cast<uint32_t>(key);
  auto key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * c[0];
    const uint64_t product1 = kMultiplier1 * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return c;
}

uint64_t DeriveSeed(uint64_t seed, uint64_t stream) {
  Random random(seed, stream);
  const uint64_t high = random.Word();
  return high << 32 | random.Word();
}

uint32_t Random::Word() {
  const uint64_t block = position_ / 4;
  const std::array<uint32_t, 4> words =
      Philox(seed_, {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                     static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)});
  return words[position_++ % 4];
}

double Random::Uniform() {
  const uint64_t high = Word();
  const uint64_t low = Word();
  return static_cast<double>(((high << 32) | low) >> 11) * 0x1p-53;
}

float Random::Normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));
  return static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * Uniform()));
}

uint64_t Random::Below(uint64_t bound) {
  // Values from `limit` up would favour small remainders; they are drawn again.
  const uint64_t limit = bound * (UINT64_MAX / bound);
  while (true) {
    const uint64_t high = Word();
    const uint64_t value = (high << 32) | Word();
    if (value < limit) return value % bound;
  }
}

}  // namespace ringwise
