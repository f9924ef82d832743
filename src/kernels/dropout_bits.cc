#include "kernels/dropout_bits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dropout_bits.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <algorithm>
#include <cassert>

#include "hwy/highway.h"
#include "kernels/philox-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// The pairs of one key with up to 64 queries whose high halves are equal.
uint64_t KeptOfKey(const uint64_t* queries, int count, uint64_t key_position, uint32_t first_key,
                   uint32_t threshold) {
  constexpr int kTogether = 4;  // rounds of one vector wait for each other
  const hn::CappedTag<uint64_t, 8> d;
  const hn::RebindToSigned<decltype(d)> ds;
  const auto lanes = static_cast<int>(hn::Lanes(d));
  const auto low_half = hn::Set(d, uint64_t{0xffffffff});
  const auto dropped = hn::Set(ds, int64_t{threshold} - 1);  // the largest that is
  uint64_t kept = 0;
  for (int column = 0; column < count; column += kTogether * lanes) {
    const auto load = [&](int i) HWY_ATTR {
      return hn::LoadU(d, queries + std::min(column + i * lanes, count - 1));
    };
    auto left0 = load(0);
    auto left1 = load(1);
    auto left2 = load(2);
    auto left3 = load(3);
    auto right0 = hn::Set(d, key_position);
    auto right1 = right0;
    auto right2 = right0;
    auto right3 = right0;
    uint32_t key = first_key;
    for (int round = 0; round < DropoutStream::kRounds; ++round) {
      const auto key_v = hn::Set(d, uint64_t{key});
      PhiloxRound(d, key_v, left0, right0);
      PhiloxRound(d, key_v, left1, right1);
      PhiloxRound(d, key_v, left2, right2);
      PhiloxRound(d, key_v, left3, right3);
      key += DropoutStream::kWeyl;
    }
    const auto add = [&](auto left, int i) HWY_ATTR {
      const int at = column + i * lanes;
      if (at >= count) return;
      const auto word = hn::BitCast(ds, hn::And(left, low_half));
      uint8_t bits[8] = {};
      hn::StoreMaskBits(ds, hn::Gt(word, dropped), bits);
      kept |= uint64_t{bits[0]} << at;
    };
    add(left0, 0);
    add(left1, 1);
    add(left2, 2);
    add(left3, 3);
  }
  return count == 64 ? kept : kept & ((uint64_t{1} << count) - 1);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(KeptOfKey);

void DropoutBits(const DropoutStream& stream, const PositionRun& queries, const PositionRun& keys,
                 uint64_t* kept) {
  constexpr int kMost = 64;
  constexpr int kMostLanes = 8;
  assert(queries.count <= kMost);
  uint64_t positions[kMost + kMostLanes] = {};  // vectors are read past the last
  for (int i = 0; i < queries.count; ++i) positions[i] = static_cast<uint64_t>(queries[i]);
  std::fill_n(kept, keys.count, uint64_t{0});
  const auto kept_of_key = HWY_DYNAMIC_DISPATCH(KeptOfKey);
  // The key depends on the high half of the query's position, which seldom changes in a run.
  const auto count = static_cast<int>(queries.count);
  for (int begin = 0; begin < count;) {
    int end = begin + 1;
    while (end < count && positions[end] >> 32 == positions[begin] >> 32) ++end;
    for (int64_t row = 0; row < keys.count; ++row) {
      const uint64_t bits =
          kept_of_key(positions + begin, end - begin, static_cast<uint64_t>(keys[row]),
                      stream.Key(queries[begin], keys[row]), stream.threshold());
      kept[row] |= bits << begin;
    }
    begin = end;
  }
}

}  // namespace ringwise
#endif  // HWY_ONCE
