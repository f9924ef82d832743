#pragma once

#include <array>
#include <cstdint>

#include "ringwise/dropout.h"

namespace ringwise {

// The random words of one sequence and head: Philox2x32-7 [Salmon et al. 2011], whose counter is
// the low halves of the two positions and whose key comes from everything else. The vector form
// (kernels/dropout_bits.h) follows Keeps step by step.
class DropoutStream {
 public:
  static constexpr int kRounds = 7;
  static constexpr uint64_t kMultiplier = 0xD256D193;
  static constexpr uint32_t kWeyl = 0x9E3779B9;

  DropoutStream(const Dropout& dropout, int64_t batch, int64_t head);

  bool Keeps(int64_t query_position, int64_t key_position) const;
  // The first round's key: the same for all positions with the same high halves.
  uint32_t Key(int64_t query_position, int64_t key_position) const {
    return keys_[0] + keys_[1] * static_cast<uint32_t>(query_position >> 32) +
           keys_[2] * static_cast<uint32_t>(key_position >> 32);
  }
  uint32_t threshold() const { return threshold_; }  // words below it are dropped

 private:
  std::array<uint32_t, 3> keys_;
  uint32_t threshold_;
};

}  // namespace ringwise
