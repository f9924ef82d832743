#include "inference/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string>
#include <vector>

#include "ringwise/launch.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

ModelConfig SmallConfig(int64_t kv_heads, bool tied, int64_t window = 0) {
  ModelConfig config;
  config.hidden = 40;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = kv_heads;
  config.head_dim = 12;
  config.ffn = 72;
  config.vocab = 61;
  config.max_positions = 128;
  config.tied_embeddings = tied;
  config.window = window;
  return config;
}

// Weights large enough that attention is far from uniform.
std::vector<Parameter> RandomParameters(MemoryMeter& meter, const ModelConfig& config) {
  std::vector<Parameter> parameters;
  uint64_t stream = 0;
  const auto add = [&](const std::string& name, const Shape& shape) {
    Parameter parameter{name, Tensor(meter, MemoryCategory::kParameters, DType::kF32, shape), {}};
    Random random(17, stream++);
    const float size = shape.rank() == 1 ? 0.1f : 1.5f / std::sqrt(static_cast<float>(shape[1]));
    for (int64_t i = 0; i < shape.elements(); ++i) {
      parameter.value.data<float>()[i] = (shape.rank() == 1 ? 1.0f : 0.0f) + size * random.Normal();
    }
    parameters.push_back(std::move(parameter));
  };
  const int64_t width = config.heads * config.head_dim;
  const int64_t kv_width = config.kv_heads * config.head_dim;
  add("model.embed_tokens.weight", {config.vocab, config.hidden});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    std::string prefix = "model.layers.";
    prefix += std::to_string(layer);
    add(prefix + ".self_attn.q_proj.weight", {width, config.hidden});
    add(prefix + ".self_attn.k_proj.weight", {kv_width, config.hidden});
    add(prefix + ".self_attn.v_proj.weight", {kv_width, config.hidden});
    add(prefix + ".self_attn.o_proj.weight", {config.hidden, width});
    add(prefix + ".mlp.gate_proj.weight", {config.ffn, config.hidden});
    add(prefix + ".mlp.up_proj.weight", {config.ffn, config.hidden});
    add(prefix + ".mlp.down_proj.weight", {config.hidden, config.ffn});
    add(prefix + ".input_layernorm.weight", {config.hidden});
    add(prefix + ".post_attention_layernorm.weight", {config.hidden});
  }
  add("model.norm.weight", {config.hidden});
  if (!config.tied_embeddings) add("lm_head.weight", {config.vocab, config.hidden});
  return parameters;
}

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  Random random(3, 99);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

struct RingSetup {
  int ring = 1;
  int threads = 1;
  Layout layout = Layout::kZigzag;
  DType compute = DType::kF32;
};

// The logits after the first `prompt` tokens, and after each of the others.
std::vector<std::vector<float>> LogitsOf(const RingSetup& setup, const ModelConfig& config,
                                         const std::vector<Parameter>& parameters,
                                         const std::vector<int32_t>& tokens, size_t prompt) {
  std::vector<std::vector<float>> result;
  MeshOptions mesh;
  mesh.ring = setup.ring;
  mesh.threads = setup.threads;
  Launch(mesh, [&](Rank& rank) {
    const LlamaWeights weights(config, parameters);
    Decoder decoder(rank.context, rank.ring, config, weights, setup.compute);
    for (size_t length = prompt; length <= tokens.size(); ++length) {
      const std::span<const float> logits =
          length == prompt ? decoder.Start(std::span(tokens).first(prompt), setup.layout)
                           : decoder.Next(tokens[length - 1]);
      EXPECT_EQ(logits.empty(), rank.ring.rank() != 0);
      if (rank.ring.rank() == 0) result.emplace_back(logits.begin(), logits.end());
    }
  });
  return result;
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

// However a sequence is split into prompt and further tokens, and cut over a ring, what follows it
// is the same. The logits are of order one, so the bound is relative.
TEST(Decoder, PromptAndTokensAgreeOnAnyRing) {
  struct Case {
    int64_t kv_heads;
    int64_t window;
  };
  for (const auto& [kv_heads, window] :
       {Case{1, 0}, Case{2, 0}, Case{4, 0}, Case{2, 1}, Case{4, 6}, Case{1, 18}}) {
    SCOPED_TRACE(testing::Message() << kv_heads << " kv_heads, window " << window);
    const ModelConfig config = SmallConfig(kv_heads, kv_heads == 2, window);
    MemoryMeter meter;
    const std::vector<Parameter> parameters = RandomParameters(meter, config);
    const std::vector<int32_t> tokens = RandomTokens(24, config.vocab);
    std::vector<std::vector<float>> expected;
    for (size_t length = 1; length <= tokens.size(); ++length) {
      const std::vector<int32_t> prefix(tokens.begin(),
                                        tokens.begin() + static_cast<std::ptrdiff_t>(length));
      expected.push_back(LogitsOf({}, config, parameters, prefix, length).front());
    }
    EXPECT_GT(LargestDifference(expected[10], expected[11]), 0.5);
    const std::vector<int> rings = window == 0 ? std::vector{1, 2, 3, 5} : std::vector{1, 3};
    for (const int ring : rings) {
      for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
        for (const size_t prompt : {size_t{1}, size_t{2}, size_t{17}}) {
          const RingSetup setup{.ring = ring, .threads = ring == 1 ? 2 : 1, .layout = layout};
          const auto logits = LogitsOf(setup, config, parameters, tokens, prompt);
          ASSERT_EQ(logits.size(), tokens.size() - prompt + 1);
          for (size_t i = 0; i < logits.size(); ++i) {
            EXPECT_LE(LargestDifference(logits[i], expected[prompt - 1 + i]), 2e-5)
                << "ring " << ring << " prompt " << prompt << " token " << i;
          }
          EXPECT_EQ(LogitsOf(setup, config, parameters, tokens, prompt), logits)
              << "not repeatable";
        }
      }
    }
  }
}

// Two layers of a window of 5 reach 8 tokens back: what is farther is not even multiplied by zero.
TEST(Decoder, WhatTheWindowHidesIsNotRead) {
  const ModelConfig config = SmallConfig(2, false, 5);
  MemoryMeter meter;
  std::vector<Parameter> parameters = RandomParameters(meter, config);
  std::vector<int32_t> tokens = RandomTokens(24, config.vocab - 1);
  tokens[0] = static_cast<int32_t>(config.vocab - 1);
  parameters[0].value.data<float>()[(config.vocab - 1) * config.hidden] = NAN;
  for (const int ring : {1, 3}) {
    const auto logits = LogitsOf({.ring = ring}, config, parameters, tokens, 1);
    for (size_t i = 0; i < logits.size(); ++i) {
      EXPECT_EQ(std::isnan(logits[i][0]), i < 9) << "ring " << ring << " token " << i;
    }
  }
}

// bf16 rounds weights and activations to 8 bits: some 2^-8 of each logit, a few times over.
TEST(Decoder, Bf16IsCloseToF32) {
  const ModelConfig config = SmallConfig(2, true);
  MemoryMeter meter;
  const std::vector<Parameter> parameters = RandomParameters(meter, config);
  const std::vector<int32_t> tokens = RandomTokens(24, config.vocab);
  const auto expected = LogitsOf({}, config, parameters, tokens, 12);
  for (const int ring : {1, 3}) {
    const auto logits =
        LogitsOf({.ring = ring, .compute = DType::kBF16}, config, parameters, tokens, 12);
    for (size_t i = 0; i < logits.size(); ++i) {
      EXPECT_LE(LargestDifference(logits[i], expected[i]), 0.15);
      EXPECT_GT(LargestDifference(logits[i], expected[i]), 0);
    }
  }
}

}  // namespace
}  // namespace ringwise
