#include "ringwise/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "ringwise/error.h"

namespace ringwise {
namespace {

ModelConfig Small() {
  ModelConfig config;
  config.hidden = 64;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 24;
  config.ffn = 96;
  config.vocab = 257;
  config.max_positions = 512;
  return config;
}

TEST(ModelConfig, CountsMatrixParameters) {
  // q and o: 64 x 96; k and v: 64 x 48; three of 64 x 96; the head.
  const int64_t layer = 2 * 64 * 96 + 2 * 64 * 48 + 3 * 64 * 96;
  EXPECT_EQ(MatrixParameters(Small()), 2 * layer + 64 * 257);
}

TEST(ModelConfig, ValidateNamesTheField) {
  EXPECT_NO_THROW(Validate(Small()));
  const auto expect = [](const std::function<void(ModelConfig&)>& change, const char* message) {
    ModelConfig config = Small();
    change(config);
    try {
      Validate(config);
      ADD_FAILURE() << message;
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(message));
    }
  };
  expect([](ModelConfig& config) { config.hidden = 0; }, "hidden must be");
  expect([](ModelConfig& config) { config.layers = -1; }, "layers must be from 1 to 2^30, got -1");
  expect([](ModelConfig& config) { config.vocab = int64_t{1} << 40; }, "vocab");
  expect([](ModelConfig& config) { config.kv_heads = 3; }, "4 heads and 3 kv_heads");
  expect([](ModelConfig& config) { config.head_dim = 25; }, "head_dim must be even");
  expect([](ModelConfig& config) { config.head_dim = 258; }, "at most 256");
  expect(
      [](ModelConfig& config) {
        config.hidden = config.heads = int64_t{1} << 30;
        config.head_dim = 256;
      },
      "at most 2^50 parameters");
  expect([](ModelConfig& config) { config.layers = config.ffn = int64_t{1} << 30; }, "2^50");
  expect([](ModelConfig& config) { config.rope_theta = std::nan(""); }, "rope_theta");
  expect([](ModelConfig& config) { config.rms_norm_eps = -1; }, "rms_norm_eps");
  expect([](ModelConfig& config) { config.window = -1; }, "window must be from 0 (none)");
  expect([](ModelConfig& config) { config.attention_dropout = 1; }, "attention_dropout must be");
  expect([](ModelConfig& config) { config.attention_dropout = std::nan(""); }, "in [0, 1)");
}

}  // namespace
}  // namespace ringwise
