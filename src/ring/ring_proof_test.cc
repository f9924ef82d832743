#include "ring/ring_proof.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <sstream>
#include <string>

#include "ring/backward_choice.h"
#include "ring/row_shards.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

// What travels in the case's backward, if anything does.
std::optional<Travelling> TravellingOf(const RingCase& c) {
  const RingCaseData data(c);
  const RingAttentionOptions options = OptionsFor(data.whole(), c.ring);
  const AttentionShape shape{c.batch, c.heads, c.kv_heads, c.head_dim, c.ValueDim(), c.dtype};
  const BackwardChoice choice = ChooseBackward(
      {options.mask, c.batch, c.heads, options.query_positions, options.key_positions}, shape,
      options.bias.has_value());
  if (choice.plan.TotalBytes() == 0) return {};
  return choice.travelling;
}

// Few enough for the sanitizers; attention_proof_probe draws more, and runs a failing one again
// with the flags printed.
TEST(RingProof, RandomCompositions) {
  constexpr int kCases = 200;
  constexpr uint64_t kSeed = 2;
  Random random(kSeed, 0);
  std::map<Travelling, int> taken;
  for (int i = 0; i < kCases; ++i) {
    const RingCase c = DrawCase(random);
    EXPECT_EQ(ProveCase(c).problem, "") << "attention_proof_probe " << c.ToString();
    if (const auto travelling = TravellingOf(c)) ++taken[*travelling];
  }
  EXPECT_GE(taken[Travelling::kKeys], 20);
  EXPECT_GE(taken[Travelling::kQueries], 20);
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
