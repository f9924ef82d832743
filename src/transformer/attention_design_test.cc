#include "ringwise/attention_design.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/llama.h"
#include "transformer/llama_pass.h"

namespace ringwise {
namespace {

TEST(AttentionDesign, NamesAreReadBack) {
  for (const AttentionDesign design : AttentionDesigns()) {
    EXPECT_EQ(ParseAttentionDesign(Name(design)), design);
  }
  EXPECT_THROW(ParseAttentionDesign("Ring"), UsageError);
  EXPECT_THROW(ParseAttentionDesign(""), UsageError);
}

TEST(AttentionDesign, WholeSequencesNeedOneRank) {
  for (const AttentionDesign design : AttentionDesigns()) {
    EXPECT_NO_THROW(CheckRingOf(design, 1));
    Pass run;
    run.design = design;
    run.ring = 2;
    if (design == AttentionDesign::kRing) {
      EXPECT_NO_THROW(Execute(run));
    } else {
      EXPECT_THROW(Execute(run), UsageError);
    }
  }
}

// Heads 0 to 3 see another part of the keys each, head 1 in two pieces.
std::vector<MaskSlice> Slices() {
  return {{0, 0, 45, 0, 45},
          {1, 0, 20, 0, 20},
          {1, 20, 45, 10, 25},
          {2, 11, 45, 0, 30},
          {3, 0, 45, 5, 40, SliceKind::kCausal}};
}

class Designs : public testing::TestWithParam<std::tuple<AttentionDesign, Recompute>> {
 protected:
  static Pass Chosen(Pass run) {
    std::tie(run.design, run.recompute) = GetParam();
    return run;
  }
};

INSTANTIATE_TEST_SUITE_P(
    All, Designs,
    testing::Combine(testing::Values(AttentionDesign::kVanilla, AttentionDesign::kMemoryEfficient,
                                     AttentionDesign::kBlockwise),
                     testing::Values(Recompute::kNone, Recompute::kAttention, Recompute::kBlock)));

TEST_P(Designs, GiveTheSameLossAndGradients) {
  Pass sliced;
  sliced.slices = Slices();
  Pass masked = MaskedPass();  // window, documents, dropout
  masked.slices = Slices();
  Pass striped = MaskedPass();
  striped.threads = 2;
  striped.layout = Layout::kZigzag;
  for (const Pass& run : {Pass(), sliced, masked, striped}) {
    const Result expected = Execute(run);
    const Result actual = Execute(Chosen(run));
    EXPECT_EQ(actual.loss.tokens, expected.loss.tokens);
    EXPECT_NEAR(actual.loss.nats, expected.loss.nats, 1e-6 * expected.loss.nats);
    EXPECT_NEAR(actual.forward_loss.nats, expected.loss.nats, 1e-6 * expected.loss.nats);
    EXPECT_LT(LargestError(actual, expected), 1e-5);
  }
}

// More rows than a block has, on a team: attention's and the feed-forward's blocks have limits
// inside the sequence, or none.
TEST_P(Designs, LongerSequencesThanABlock) {
  Pass run;
  run.batch = 1;
  run.context = 1100;
  run.threads = 2;
  run.dropout = 0.1;
  const Result expected = Execute(run);
  const Result actual = Execute(Chosen(run));
  EXPECT_NEAR(actual.loss.nats, expected.loss.nats, 1e-6 * expected.loss.nats);
  EXPECT_LT(LargestError(actual, expected), 1e-5);
  EXPECT_TRUE(Execute(Chosen(run)).gradients == actual.gradients);
}

TEST_P(Designs, Bf16IsAsNearF32) {
  const Result exact = Execute(Pass());
  Pass run = Chosen(Pass());
  run.compute = DType::kBF16;
  const Result rounded = Execute(run);
  EXPECT_NEAR(rounded.loss.nats, exact.loss.nats, 0.03 * exact.loss.nats);
  for (const auto& [name, reference] : exact.gradients) {
    double error = 0;
    double square = 0;
    for (size_t i = 0; i < reference.size(); ++i) {
      const double difference = rounded.gradients.at(name)[i] - reference[i];
      error += difference * difference;
      square += reference[i] * reference[i];
    }
    EXPECT_LT(std::sqrt(error / square), 0.2) << name;
  }
}

// Slices of all ranks' heads, over head groups and on a ring.
TEST(AttentionDesign, SlicesAreTheSameOnARing) {
  Pass run;
  run.slices = Slices();
  const Result one = Execute(run);
  EXPECT_GT(std::abs(one.loss.nats / Execute(Pass()).loss.nats - 1), 1e-4);
  run.ring = 3;
  run.layout = Layout::kStriped;
  const Result three = Execute(run);
  EXPECT_NEAR(three.loss.nats, one.loss.nats, 1e-6 * one.loss.nats);
  EXPECT_LT(LargestError(three, one), 1e-5);
  Pass grouped;  // passes that recompute take the heads of long sequences in two groups
  grouped.batch = 1;
  grouped.context = 1100;
  grouped.slices = {{0, 0, 1100, 0, 400}, {1, 0, 1100, 0, 1100}, {3, 300, 1100, 200, 1000}};
  const Result together = Execute(grouped);
  grouped.recompute = Recompute::kAttention;
  EXPECT_LT(LargestError(Execute(grouped), together), 1e-5);
}

// What the designs differ in: elements a sequence that are held at the highest moment.
TEST(AttentionDesign, HoldLessAndLess) {
  Pass run;
  run.batch = 1;
  run.context = 8192;
  run.threads = 2;
  run.config = {.hidden = 16,
                .layers = 1,
                .heads = 2,
                .kv_heads = 2,
                .head_dim = 8,
                .ffn = 96,
                .vocab = 53,
                .max_positions = 8192};
  run.recompute = Recompute::kBlock;
  std::vector<int64_t> working;
  for (const AttentionDesign design :
       {AttentionDesign::kMemoryEfficient, AttentionDesign::kBlockwise}) {
    run.design = design;
    working.push_back(Execute(run).peak.working);
  }
  // gate, up, inner and its gradient of the whole sequence, beside the rest.
  EXPECT_GT(working[0], 4 * run.context * run.config.ffn * 4);
  EXPECT_LT(working[1], working[0] / 2);
  run.context = 1024;
  run.design = AttentionDesign::kVanilla;
  const int64_t scores = run.config.heads * run.context * run.context * 4;
  const MemoryMeter::Reading peak = Execute(run).peak;
  EXPECT_EQ(peak.largest_allocation, scores);
  EXPECT_GT(peak.working, scores);
}

}  // namespace
}  // namespace ringwise
