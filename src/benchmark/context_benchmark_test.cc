#include "ringwise/context_benchmark.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ringwise/error.h"

namespace ringwise {
namespace {

// Small enough to compute, on more ranks than a block of rows needs.
ContextOptions Small() {
  ContextOptions options;
  options.model = {.hidden = 32,
                   .layers = 2,
                   .heads = 4,
                   .kv_heads = 4,
                   .head_dim = 8,
                   .ffn = 96,
                   .vocab = 101,
                   .max_positions = 1};
  options.budget = 4 << 20;
  options.ranks = {1, 3};
  options.memory_contexts = {600};
  options.time_contexts = {150};
  options.min_seconds = 0;
  return options;
}

TEST(ContextBenchmark, ADryRunHoldsWhatARealStepDoes) {
  ContextOptions options = Small();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    options.dtype = dtype;
    for (const Recompute recompute : {Recompute::kNone, Recompute::kAttention, Recompute::kBlock}) {
      if (dtype == DType::kBF16 && recompute != Recompute::kBlock) continue;
      options.recompute = recompute;
      for (const ContextDesign& design : options.designs) {
        const bool often = design.name == "vanilla" || design.name == "zigzag";
        if (!often && recompute != Recompute::kBlock) continue;
        for (const int ranks : {1, 3}) {
          if (!design.runs_on(ranks)) continue;
          for (const int64_t context : {7, 600}) {
            EXPECT_EQ(RehearseContext(options, design, ranks, context),
                      TrainContext(options, design, ranks, context).measured)
                << design.name << " on " << ranks << " at " << context;
          }
        }
      }
    }
  }
}

TEST(ContextBenchmark, FindsTheLargestContext) {
  const ContextOptions options = Small();
  std::vector<ContextLargest> all;
  std::vector<std::string> names;
  int timed = 0;
  BenchmarkContext(options, {[](const ContextDesign&, const ContextMemory& memory) {
                               EXPECT_EQ(memory.working, 2 * memory.kept + memory.at_work);
                               EXPECT_GT(memory.kept, 0);
                             },
                             [&](const ContextDesign& design, const ContextLargest& largest) {
                               names.push_back(design.name);
                               all.push_back(largest);
                             },
                             [&](const ContextDesign&, const ContextTime& time) {
                               EXPECT_EQ(time.context, 150);
                               ++timed;
                             },
                             [](const ContextDesign& design, const ContextBalance& balance) {
                               EXPECT_EQ(balance.ranks, 3);
                               EXPECT_EQ(balance.work > 1.5, design.name == "ring") << design.name;
                             }});
  EXPECT_EQ(timed, 7);
  ASSERT_EQ(all.size(), 3 + 4 * 2);
  for (size_t i = 0; i < all.size(); ++i) {
    const ContextLargest& largest = all[i];
    EXPECT_LE(largest.predicted, options.budget) << names[i];
    const ContextDesign* design = nullptr;
    for (const ContextDesign& one : options.designs) {
      if (one.name == names[i]) design = &one;
    }
    EXPECT_GT(RehearseContext(options, *design, largest.ranks, largest.context + largest.ranks),
              options.budget)
        << names[i];
  }
  EXPECT_LT(all[0].context, all[1].context);
  // Blocks of a feed-forward are no gain yet where attention needs as much.
  EXPECT_LT(all[0].context, all[2].context);
  EXPECT_LT(2 * all[3].context, all[4].context);
}

TEST(ContextBenchmark, RefusesWhatCannotBe) {
  ContextOptions options = Small();
  options.budget = 1000;
  EXPECT_THROW(BenchmarkContext(options, {}), UsageError);
  options = Small();
  options.ranks = {0};
  EXPECT_THROW(BenchmarkContext(options, {}), UsageError);
  options = Small();
  options.time_contexts = {0};
  EXPECT_THROW(BenchmarkContext(options, {}), UsageError);
}

}  // namespace
}  // namespace ringwise
