#pragma once

#include <array>
#include <cstdint>

namespace ringwise {

// Philox4x32-10 [Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"]: four random
// words as a pure function of (key, counter). No state, so any rank can ask for any number in any
// order.
std::array<uint32_t, 4> Philox(uint64_t key, const std::array<uint32_t, 4>& counter);

// A sequence of random numbers named by (seed, stream). Copies continue independently; `position`
// is all the state there is, so saving it resumes the sequence exactly.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream, uint64_t position = 0)
      : seed_(seed), stream_(stream), position_(position) {}

  uint32_t Word();                                 // uniform over all 2^32 values
  double Uniform();                                // [0, 1)
  float Normal();                                  // mean 0, variance 1 (Box-Muller)
  uint64_t Below(uint64_t bound);                  // uniform over [0, bound), exactly; bound > 0
  uint64_t position() const { return position_; }  // words drawn so far

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t position_;
};

// A seed from the stream (seed, stream), for what needs one of its own for each step or layer.
uint64_t DeriveSeed(uint64_t seed, uint64_t stream);

}  // namespace ringwise
