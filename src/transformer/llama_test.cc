#include "ringwise/llama.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/random.h"
#include "transformer/llama_pass.h"

namespace ringwise {
namespace {

TEST(Llama, GradientsAreTheSlopeOfTheLoss) {
  Pass tied;
  tied.config = SmallConfig(true);
  for (Pass run : {Pass(), tied, MaskedPass()}) {
    run.gradient_scale = 1;
    const Result at = Execute(run);
    EXPECT_EQ(at.loss.nats, at.forward_loss.nats);
    EXPECT_EQ(at.loss.tokens, at.forward_loss.tokens);
    // Along each parameter's own gradient, where the slope is its squared length. The step is a
    // compromise between the loss's curvature and its rounding, 1e-7 of 400 nats.
    for (const auto& [name, gradient] : at.gradients) {
      double squares = 0;
      for (const double g : gradient) squares += g * g;
      const double length = std::sqrt(squares);
      ASSERT_GT(length, 0) << name;
      const double step = 0.02 / length;
      double loss[2];
      for (const int side : {0, 1}) {
        run.change = [&](Llama& model) {
          for (Parameter& parameter : model.parameters()) {
            if (parameter.name != name) continue;
            for (size_t i = 0; i < gradient.size(); ++i) {
              parameter.value.data<float>()[i] +=
                  static_cast<float>((side == 0 ? -step : step) * gradient[i] / length);
            }
          }
        };
        loss[side] = Execute(run).loss.nats;
      }
      run.change = nullptr;
      EXPECT_NEAR((loss[1] - loss[0]) / (2 * step), length, 0.01 * length) << name;
    }
  }
}

// A first layer that adds nothing leaves the second to do what a single layer does, and all that
// differs is what each of them drops.
TEST(Llama, LayersDropDifferentPairs) {
  std::map<std::string, std::vector<float>> layer;
  const std::string first = "model.layers.0.";
  const std::string second = "model.layers.1.";
  const auto values = [](Parameter& parameter) {
    return std::span(parameter.value.data<float>(),
                     static_cast<size_t>(parameter.value.elements()));
  };
  Pass one;
  one.config.layers = 1;
  one.change = [&](Llama& model) {
    for (Parameter& parameter : model.parameters()) {
      const auto all = values(parameter);
      layer[parameter.name].assign(all.begin(), all.end());
    }
  };
  Pass two;
  two.change = [&](Llama& model) {
    for (Parameter& parameter : model.parameters()) {
      std::string name = parameter.name;
      if (name.starts_with(second)) name.replace(0, second.size(), first);
      const bool silent = parameter.name.starts_with(first) &&
                          (name.find("o_proj") != name.npos || name.find("down") != name.npos);
      const auto all = values(parameter);
      std::copy_n(layer.at(name).begin(), all.size(), all.begin());
      if (silent) std::fill(all.begin(), all.end(), 0.0f);
    }
  };
  for (const double dropout : {0.0, 0.5}) {
    one.dropout = two.dropout = dropout;
    const double expected = Execute(one).loss.nats;
    const double difference = std::abs(Execute(two).loss.nats / expected - 1);
    if (dropout == 0) {
      EXPECT_LT(difference, 1e-7);
    } else {
      EXPECT_GT(difference, 1e-4);
    }
  }
}

TEST(Llama, RecomputationChangesNoBit) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    Pass run = MaskedPass();
    run.compute = compute;
    run.ring = 2;
    run.threads = 2;
    const Result kept = Execute(run);
    for (const Recompute recompute : {Recompute::kAttention, Recompute::kBlock}) {
      run.recompute = recompute;
      const Result again = Execute(run);
      EXPECT_EQ(again.loss.nats, kept.loss.nats);
      EXPECT_TRUE(again.gradients == kept.gradients);
    }
  }
}

TEST(Llama, RingAndLayoutChangeOnlyRounding) {
  for (Pass run : {Pass(), MaskedPass()}) {
    const Result one = Execute(run);
    EXPECT_EQ(one.loss.tokens, 2 * (45 - 6));
    for (const int ring : {2, 3, 5}) {
      for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
        run.ring = ring;
        run.layout = layout;
        run.recompute = Recompute::kAttention;
        const Result many = Execute(run);
        EXPECT_EQ(many.loss.tokens, one.loss.tokens);
        EXPECT_NEAR(many.loss.nats, one.loss.nats, 1e-6 * one.loss.nats);
        EXPECT_LT(LargestError(many, one), 1e-5) << ring << " " << Name(layout);
      }
    }
  }
}

// Rows of tokens [begin, end) of sequence 0, at positions from 0.
std::vector<float> LogitsOf(const ModelConfig& config, int64_t begin, int64_t end,
                            const Segments& documents) {
  std::vector<float> logits(static_cast<size_t>((end - begin) * config.vocab));
  Launch({.ring = 1, .data_parallel = 1, .threads = 1}, [&](Rank& rank) {
    Llama model(rank.context, config, DType::kF32);
    model.Initialize(9);
    std::vector<int32_t> tokens;
    for (int64_t i = begin; i < end; ++i) tokens.push_back(TokenAt(config, 0, i));
    TokenBatch batch{1, tokens, tokens, {{{0, end - begin, 1}}}};
    if (!documents.empty()) {
      const std::vector<Segments> sequences = {documents};
      batch.documents = std::make_shared<SegmentMap>(sequences, sequences);
    }
    model.Logits(rank.ring, batch, kTheta,
                 {logits.data(), DType::kF32, {end - begin, config.vocab}});
  });
  return logits;
}

// Rotary embedding is relative: where a document stands in the sequence does not matter either.
TEST(Llama, PackedDocumentsAreAsIfAlone) {
  for (const int64_t window : {0, 9}) {
    ModelConfig config = SmallConfig(false);
    config.window = window;
    const std::vector<float> packed = LogitsOf(config, 0, 70, {{0, 31, 0}, {31, 70, 1}});
    std::vector<float> alone = LogitsOf(config, 0, 31, {});
    const std::vector<float> second = LogitsOf(config, 31, 70, {});
    alone.insert(alone.end(), second.begin(), second.end());
    ASSERT_EQ(packed.size(), alone.size());
    double error = 0;
    double largest = 0;
    for (size_t i = 0; i < packed.size(); ++i) {
      error = std::max(error, std::abs(static_cast<double>(packed[i]) - alone[i]));
      largest = std::max(largest, std::abs(static_cast<double>(alone[i])));
    }
    EXPECT_LT(error, 1e-5 * largest) << "window " << window;
  }
}

TEST(Llama, ShardsMayBeEmpty) {
  Pass run;
  run.context = 3;
  const Result one = Execute(run);
  run.ring = 5;
  const Result many = Execute(run);
  EXPECT_NEAR(many.loss.nats, one.loss.nats, 1e-6 * one.loss.nats);
  EXPECT_LT(LargestError(many, one), 1e-5);
  run.context = 0;
  EXPECT_EQ(Execute(run).loss.tokens, 0);
}

TEST(Llama, Bf16IsNearF32) {
  Pass run;
  const Result exact = Execute(run);
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

TEST(Llama, LongShardsGiveTheSameBitsTwiceAndWithHeadGroups) {
  Pass run;
  run.dropout = 0.1;  // which does not depend on the groups either
  run.context = 1100;
  run.batch = 1;
  run.threads = 2;
  const Result first = Execute(run);
  const Result second = Execute(run);
  EXPECT_TRUE(first.gradients == second.gradients);
  // Recomputing passes take the heads in groups, which moves the limits of attention's tiles.
  run.recompute = Recompute::kBlock;
  const Result block = Execute(run);
  EXPECT_LT(LargestError(block, first), 1e-5);
  run.recompute = Recompute::kAttention;
  EXPECT_TRUE(Execute(run).gradients == block.gradients);
  run.threads = 1;
  const Result alone = Execute(run);
  EXPECT_LT(LargestError(first, alone), 1e-5);
}

TEST(Llama, RejectsWhatDoesNotFit) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  ModelConfig bad = SmallConfig(false);
  bad.kv_heads = 3;
  EXPECT_THROW(Llama(context, bad, DType::kF32), UsageError);
  Launch({.ring = 1, .data_parallel = 1, .threads = 1}, [](Rank& rank) {
    Llama model(rank.context, SmallConfig(false), DType::kF32);
    model.Initialize(1);
    std::vector<int32_t> tokens = {1, 2, 53};
    TokenBatch batch{1, tokens, tokens, {{{0, 3, 1}}}};
    EXPECT_THROW(model.Forward(rank.ring, batch, kTheta), UsageError);
    tokens[2] = 3;
    EXPECT_NO_THROW(model.Forward(rank.ring, batch, kTheta));
    EXPECT_THROW(model.Forward(rank.ring, batch, 0), UsageError);
    const std::vector<Segments> two = {{{0, 3, 0}}, {{0, 3, 0}}};
    batch.documents = std::make_shared<SegmentMap>(two, two);
    EXPECT_THROW(model.Forward(rank.ring, batch, kTheta), ShapeError);
    batch.documents.reset();
    batch.positions = {{{0, 4, 1}}};
    EXPECT_THROW(model.Forward(rank.ring, batch, kTheta), ShapeError);
    batch.positions.clear();
    EXPECT_THROW(model.Forward(rank.ring, batch, kTheta), ShapeError);
  });
}

}  // namespace
}  // namespace ringwise
