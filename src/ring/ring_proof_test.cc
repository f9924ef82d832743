#include "ring/ring_proof.h"

#include <gtest/gtest.h>

namespace ringwise {
namespace {

// 1,000 random cases; a failing one is run again by attention_proof_probe with the flags printed.
TEST(RingProof, RandomCompositions) {
#ifdef __SANITIZE_THREAD__
  constexpr int kCases = 60;  // the sanitizer is twenty times slower
#else
  constexpr int kCases = 1000;
#endif
  constexpr uint64_t kSeed = 1;
  Random random(kSeed, 0);
  for (int i = 0; i < kCases; ++i) {
    const RingCase c = DrawCase(random);
    EXPECT_EQ(ProveCase(c).problem, "") << "attention_proof_probe " << c.ToString();
  }
}

}  // namespace
}  // namespace ringwise
