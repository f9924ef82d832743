#include "ring/ring_proof.h"

#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>

#include "ringwise/error.h"

namespace ringwise {
namespace {

// Few enough for the sanitizers; attention_proof_probe draws more, and runs a failing one again
// with the flags printed.
TEST(RingProof, RandomCompositions) {
  constexpr int kCases = 200;
  constexpr uint64_t kSeed = 2;
  Random random(kSeed, 0);
  for (int i = 0; i < kCases; ++i) {
    const RingCase c = DrawCase(random);
    EXPECT_EQ(ProveCase(c).problem, "") << "attention_proof_probe " << c.ToString();
  }
}

TEST(RingCase, FlagsRepeatIt) {
  Random random(3, 0);
  for (int i = 0; i < 100; ++i) {
    const RingCase c = DrawCase(random);
    std::map<std::string, std::string> flags;
    std::istringstream words(c.ToString());
    for (std::string name, value; words >> name >> value;) flags[name] = value;
    EXPECT_EQ(ParseRingCase(flags).ToString(), c.ToString());
  }
  EXPECT_THROW(ParseRingCase({{"--rings", "2"}}), UsageError);
  EXPECT_THROW(ParseRingCase({{"--ring", "2x"}}), UsageError);
  EXPECT_THROW(ParseRingCase({{"--dtype", "f16"}}), UsageError);
}

}  // namespace
}  // namespace ringwise
