#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "core/dropout_stream.h"
#include "ringwise/random.h"

namespace ringwise {

// Names the random words of one row: pair p is Philox2x32-7 of key `key` and counter
// (first + p, second).
struct NormalRowStream {
  NormalRowStream(uint64_t seed, int64_t index, int64_t position) {
    const auto low = [](int64_t x) { return static_cast<uint32_t>(x); };
    const auto high = [](int64_t x) {
      return static_cast<uint32_t>(static_cast<uint64_t>(x) >> 32);
    };
    const std::array<uint32_t, 4> words =
        Philox(seed, {low(position), high(position), low(index), high(index)});
    key = words[0];
    first = words[1];
    second = words[2];
  }

  uint32_t key;
  uint32_t first;
  uint32_t second;
};

// Numbers come in blocks of 32 columns: pair p = 16 b + i gives columns 32 b + i and 32 b + 16 + i.
// Vectors of up to 16 lanes then make and store them whole.
inline constexpr int64_t kNormalPairs = 16;

// The two standard normals of pair `pair`, by Box and Muller: radius sqrt(-2 ln u) from the first
// word's upper 31 bits, u = (bits + 1/2) 2^-31; the angle from the second word: its lower 30 bits
// choose t in [-pi/4, pi/4), bit 30 turns to the other pair of quadrants, bit 31 to the opposite
// side.
template <class Real>
std::array<Real, 2> NormalPair(const NormalRowStream& stream, int64_t pair) {
  uint32_t left = stream.first + static_cast<uint32_t>(pair);
  uint32_t right = stream.second;
  uint32_t key = stream.key;
  for (int round = 0; round < DropoutStream::kRounds; ++round) {
    const uint64_t product = DropoutStream::kMultiplier * left;
    left = static_cast<uint32_t>(product >> 32) ^ key ^ right;
    right = static_cast<uint32_t>(product);
    key += DropoutStream::kWeyl;
  }
  const Real u = static_cast<Real>(left >> 1) * Real(0x1p-31) + Real(0x1p-32);
  const Real radius = std::sqrt(Real(-2) * std::log(u));
  const auto turn = static_cast<Real>(static_cast<int32_t>(right << 2)) * Real(0x1p-31);
  const Real t = turn * (std::numbers::pi_v<Real> / 4);
  const Real across = radius * ((right >> 31) != 0 ? -std::cos(t) : std::cos(t));
  const Real along = radius * ((right >> 31) != 0 ? -std::sin(t) : std::sin(t));
  if ((right >> 30 & 1) != 0) return {along, across};
  return {across, along};
}

}  // namespace ringwise
