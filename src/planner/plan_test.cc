#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <string>

#include "core/temporary_folder.h"
#include "ringwise/error.h"
#include "ringwise/planner.h"

namespace ringwise {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const Hardware& HardwareOf(const std::string& name) {
  for (const Hardware& hardware : KnownHardware()) {
    if (hardware.name == name) return hardware;
  }
  throw UsageError("no hardware " + name);
}

const ModelConfig& ModelOf(const std::string& name) {
  for (const auto& [known, model] : KnownModels()) {
    if (known == name) return model;
  }
  throw UsageError("no model " + name);
}

PlanOptions Options(const std::string& model, const std::string& hardware, int64_t devices) {
  return {.model = ModelOf(model), .hardware = HardwareOf(hardware), .devices = devices};
}

double TenthsOfThousands(double tokens) { return std::round(tokens / 100) / 10; }

// The paper's table of minimal sequence lengths, in thousands with one decimal: within 3 %.
TEST(BlockLaw, ThePapersTable) {
  const struct {
    const char* hardware;
    double block, sequence;
  } rows[] = {{"a100-nvlink", 1.0, 6.2},
              {"a100-infiniband", 24.5, 149.5},
              {"tpu-v3", 1.1, 6.6},
              {"tpu-v4", 1.0, 6.2},
              {"tpu-v5e", 1.1, 6.3}};
  for (const auto& row : rows) {
    const BlockLaw law = MakePlan(Options("7b", row.hardware, 256)).law;
    EXPECT_NEAR(TenthsOfThousands(law.paper_block), row.block, 0.03 * row.block) << row.hardware;
    EXPECT_NEAR(TenthsOfThousands(law.paper_sequence), row.sequence, 0.03 * row.sequence)
        << row.hardware;
  }
}

// The paper's table of contexts, by its counting: within a factor of two.
TEST(Contexts, ThePapersTable) {
  const struct {
    const char* model;
    const char* hardware;
    int64_t devices;
    int64_t thousands;
  } rows[] = {{"7b", "a100-nvlink", 8, 256}, {"7b", "a100-infiniband", 32, 4096},
              {"3b", "tpu-v4", 512, 16384},  {"7b", "tpu-v4", 512, 8192},
              {"13b", "tpu-v4", 512, 4096},  {"30b", "tpu-v4", 512, 2048}};
  for (const auto& row : rows) {
    const Plan plan = MakePlan(Options(row.model, row.hardware, row.devices));
    const double ratio = static_cast<double>(plan.paper.largest_context) /
                         (1024.0 * static_cast<double>(row.thousands));
    EXPECT_GE(ratio, 0.5) << row.model << " on " << row.hardware;
    EXPECT_LE(ratio, 2) << row.model << " on " << row.hardware;
  }
}

TEST(BlockLaw, FullMaskOfBf16WithOwnKeysIsThePapers) {
  PlanOptions options = Options("7b", "tpu-v4", 16);
  options.causal = false;
  const BlockLaw law = MakePlan(options).law;
  EXPECT_NEAR(law.block, law.paper_block, 1e-9 * law.block);
}

TEST(BlockLaw, WhatChangesIt) {
  PlanOptions options = Options("7b", "tpu-v4", 16);
  options.causal = false;
  const double full = MakePlan(options).law.block;
  // A query sees half: half as much compute hides as many bytes.
  options.causal = true;
  EXPECT_NEAR(MakePlan(options).law.block, 2 * full, 1e-6 * full);
  options.layout = Layout::kStriped;
  EXPECT_NEAR(MakePlan(options).law.block, 2 * full, 1e-6 * full);
  options.layout = Layout::kContiguous;
  EXPECT_NEAR(MakePlan(options).law.block, full, 1e-6 * full);
  // Fewer heads travel.
  options.model.kv_heads = options.model.heads / 8;
  EXPECT_NEAR(MakePlan(options).law.block, full / 8, 1e-6 * full);
  // Twice the bytes, a third of the speed.
  options.dtype = DType::kF32;
  EXPECT_NEAR(MakePlan(options).law.block, full / 8 * 2 / 3, 1e-6 * full);
  // c^2 a = b c + delay
  options = Options("7b", "tpu-v4", 16);
  options.causal = false;
  options.hardware.link_delay = 1e-5;
  const double c = MakePlan(options).law.block;
  const double compute = 4 * c * c * 4096 / 275e12;
  EXPECT_NEAR(compute, 4 * c * 4096 / 268e9 + 1e-5, 1e-9 * compute);
  EXPECT_GT(c, full);
}

// Queries travel with dO and dq in f32; with two heads a kv_head keys do, with dk and dv.
TEST(BlockLaw, OfBackward) {
  PlanOptions options = Options("7b", "tpu-v4", 16);
  options.causal = false;
  const double paper = 275e12 / 268e9;
  EXPECT_NEAR(MakePlan(options).law.backward_block, (2 * 2 + 4 + 8 / 128.0) / 10 * paper, 1e-6);
  options.model.kv_heads = options.model.heads / 2;
  EXPECT_NEAR(MakePlan(options).law.backward_block, 0.5 * (2 * 2 + 8) / 10.0 * paper, 1e-6);
}

// From the law's block size on nothing waits; below it the ring does.
TEST(BlockLaw, IsWhereTheSimulationStopsWaiting) {
  for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
    for (const bool causal : {false, true}) {
      PlanOptions options = Options("7b", "tpu-v4", 16);
      options.layout = layout;
      options.causal = causal;
      const double law = MakePlan(options).law.block;
      const auto wait = [&](double multiple) {
        options.context = static_cast<int64_t>(multiple * law) * options.devices;
        options.recompute = Recompute::kBlock;
        const Plan plan = MakePlan(options);
        const double compute =
            plan.step.attention_compute / static_cast<double>(options.model.layers);
        return (2 * plan.attention.forward + plan.attention.backward - compute) / compute;
      };
      EXPECT_GT(wait(0.5), wait(1.01)) << Name(layout);
      if (causal && layout != Layout::kStriped) continue;  // their ranks also wait for each other
      options.model.kv_heads = 1;                          // backward's gradients are few
      EXPECT_LT(wait(1.01), 0.02) << Name(layout) << causal;
    }
  }
}

TEST(Plan, MoreContextTakesMoreMemoryAndTime) {
  double memory = 0;
  double seconds = 0;
  for (const int64_t context : {1 << 14, 1 << 16, 1 << 18, 1 << 20}) {
    PlanOptions options = Options("7b", "a100-nvlink", 32);
    options.context = context;
    const Plan plan = MakePlan(options);
    EXPECT_GT(plan.sharded_count.memory.total(), memory);
    EXPECT_GT(plan.step.total(), seconds);
    memory = plan.sharded_count.memory.total();
    seconds = plan.step.total();
    EXPECT_GT(plan.mfu, 0);
    EXPECT_LE(plan.mfu, 1);
  }
}

TEST(Plan, ContextGrowsInProportionToDevices) {
  const int64_t few = MakePlan(Options("7b", "a100-nvlink", 64)).sharded_count.largest_context;
  const int64_t many = MakePlan(Options("7b", "a100-nvlink", 512)).sharded_count.largest_context;
  EXPECT_GT(static_cast<double>(many), 8 * static_cast<double>(few));
  EXPECT_LT(static_cast<double>(many), 10 * static_cast<double>(few));
}

TEST(Plan, TheLargestContextIsTheLastThatFits) {
  PlanOptions options = Options("13b", "a100-nvlink", 16);
  const Plan largest = MakePlan(options);
  EXPECT_TRUE(largest.fits);
  EXPECT_TRUE(largest.sharded);
  options.context = largest.context + options.devices;
  const Plan longer = MakePlan(options);
  EXPECT_FALSE(longer.fits);
  EXPECT_EQ(longer.limit, Limit::kMemory);
  EXPECT_GT(longer.sharded_count.memory.total(), longer.usable_memory);
  EXPECT_LE(largest.sharded_count.memory.total(), largest.usable_memory);
}

TEST(Plan, SmallModelsStayWhole) {
  PlanOptions options = Options("3b", "a100-nvlink", 8);
  options.context = 1 << 16;
  EXPECT_FALSE(MakePlan(options).sharded);
  options.parameters = Parameters::kSharded;
  const Plan sharded = MakePlan(options);
  EXPECT_TRUE(sharded.sharded);
  EXPECT_LT(sharded.sharded_count.memory.optimizer, sharded.replicated.memory.optimizer / 7.9);
  EXPECT_EQ(sharded.sharded_count.memory.activations, sharded.replicated.memory.activations);
}

TEST(Plan, WhatLimits) {
  PlanOptions options = Options("7b", "a100-infiniband", 32);
  options.context = 1 << 18;  // a third of the law's block
  EXPECT_EQ(MakePlan(options).limit, Limit::kLink);
  options.hardware = HardwareOf("a100-nvlink");
  EXPECT_EQ(MakePlan(options).limit, Limit::kCompute);
  options.layout = Layout::kContiguous;
  options.context = 1 << 20;
  EXPECT_EQ(MakePlan(options).limit, Limit::kBalance);
  options.layout = Layout::kStriped;
  options.slowest = 0.5;
  EXPECT_EQ(MakePlan(options).limit, Limit::kBalance);
}

TEST(Plan, EfficiencyAndBatchScale) {
  PlanOptions options = Options("7b", "a100-nvlink", 8);
  options.context = 1 << 17;
  options.parameters = Parameters::kSharded;
  const Plan full = MakePlan(options);
  options.efficiency = 0.5;
  const Plan half = MakePlan(options);
  EXPECT_NEAR(half.step.products, 2 * full.step.products, 1e-9 * full.step.products);
  EXPECT_EQ(half.law.block, full.law.block);
  options.ring = 4;
  const Plan rings = MakePlan(options);
  EXPECT_EQ(rings.block, 2 * half.block);
  EXPECT_EQ(rings.tokens, 2 * half.tokens);
}

TEST(Plan, ACallTakesWhatRanksNeedToMeet) {
  PlanOptions options = Options("7b", "tpu-v4", 16);
  options.context = 1 << 17;
  const AttentionCallTime before = MakePlan(options).attention;
  options.hardware.call_seconds = before.forward;
  const AttentionCallTime after = MakePlan(options).attention;
  EXPECT_NEAR(after.forward, 2 * before.forward, 1e-9 * before.forward);
  EXPECT_NEAR(after.forward_efficiency, before.forward_efficiency / 2, 1e-9);
  EXPECT_NEAR(after.backward, before.backward + before.forward, 1e-9 * before.forward);
}

TEST(Plan, RefusesTheImpossible) {
  const auto refuses = [](const PlanOptions& options, const std::string& words) {
    EXPECT_THAT([&] { MakePlan(options); }, ThrowsMessage<UsageError>(HasSubstr(words)));
  };
  PlanOptions options = Options("65b", "tpu-v5e", 8);
  refuses(options, "even sharded");
  options.parameters = Parameters::kReplicated;
  refuses(options, "shard them");
  options = Options("7b", "a100-nvlink", 0);
  refuses(options, "devices");
  options = Options("7b", "a100-nvlink", 8192);
  refuses(options, "4096");
  options = Options("7b", "a100-nvlink", 8);
  options.ring = 3;
  refuses(options, "multiple");
  options.ring = 0;
  options.context = 7;
  refuses(options, "7 tokens");
  options.context = 0;
  options.efficiency = 1.5;
  refuses(options, "efficiency");
  options.efficiency = std::numeric_limits<double>::quiet_NaN();
  refuses(options, "efficiency");
  options.efficiency = 1e-320;
  refuses(options, "efficiency must be from 0.0001 to 1");
  options.efficiency = 1;
  options.hardware.bf16 = {};
  refuses(options, "bf16");
  options.hardware.memory_bytes = -1;
  refuses(options, "memory_bytes");
}

TEST(Plan, WithoutAContextTheLongestOfBothCounts) {
  PlanOptions options = Options("3b", "a100-nvlink", 8);
  options.dtype = DType::kF32;
  const Plan longest = MakePlan(options);
  EXPECT_TRUE(longest.sharded);
  EXPECT_EQ(longest.context, longest.sharded_count.largest_context);
  options.context = longest.replicated.largest_context;
  EXPECT_FALSE(MakePlan(options).sharded);
  ++options.context;
  EXPECT_TRUE(MakePlan(options).sharded);
}

class HardwareFile : public ::testing::Test {
 protected:
  Hardware Read(const std::string& text) {
    const std::string path = folder_.path() + "/hardware.json";
    std::ofstream(path) << text;
    return ReadHardware(path);
  }
  void ExpectFails(const std::string& text, const std::string& words) {
    EXPECT_THAT([&] { Read(text); }, ThrowsMessage<FileError>(HasSubstr(words)));
  }
  TemporaryFolder folder_;
};

TEST_F(HardwareFile, ReadsWhatItWrites) {
  Hardware hardware = HardwareOf("tpu-v4");
  hardware.f32.row_seconds = 1.25e-9;
  hardware.f32.attention_backward = 3e12;
  hardware.link_delay = 7e-6;
  hardware.call_seconds = 3e-4;
  const std::string text = FormatHardware(hardware);
  EXPECT_EQ(FormatHardware(Read(text)), text);
}

TEST_F(HardwareFile, FillsInAttention) {
  const Hardware hardware = Read(
      R"({"bf16": {"products": 2e14}, "link": {"bytes_per_second": 1e9}, "memory_bytes": 1e9})");
  EXPECT_EQ(hardware.bf16.attention_forward, 2e14);
  EXPECT_EQ(hardware.f32.products, 0);
}

TEST_F(HardwareFile, NamesWhatIsWrong) {
  ExpectFails("{", "not JSON");
  ExpectFails("[1]", "object");
  ExpectFails(R"({"memory_bytes": 1e400})", "a number is too large");
  ExpectFails(R"({"memory_bytes": 1, "f32": {}, "memory_bytes": 2})",
              "memory_bytes is there twice");
  ExpectFails(R"({"bf16": {"products": 0}, "f32": {"products": 1e12},
                  "link": {"bytes_per_second": 1}, "memory_bytes": 1})",
              "bf16.products must be above 0");
  ExpectFails("{}", "link is missing");
  ExpectFails(R"({"link": {"bytes_per_second": 1e9}, "memory_bytes": 1e9})", "neither");
  ExpectFails(R"({"f32": {"products": "fast"}, "link": {"bytes_per_second": 1e9},
                  "memory_bytes": 1e9})",
              "f32.products must be a number");
  ExpectFails(R"({"f32": {"products": 1e12}, "link": {"bytes_per_second": 0}, "memory_bytes": 1})",
              "link.bytes_per_second");
  ExpectFails(R"({"f32": {"product": 1e12}, "link": {"bytes_per_second": 1}, "memory_bytes": 1})",
              "'product'");
}

}  // namespace
}  // namespace ringwise
