// Classifiers against themselves: finite differences in every parameter, every ring and layout
// against a ring of one, packed documents against each alone. tests/classifier_test.py has PyTorch.
#include "ringwise/classifier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

ClassifierConfig EncoderConfig() {
  return {.classes = 3, .vocab = 29, .hidden = 24, .layers = 2, .heads = 3, .ffn = 37};
}

ClassifierConfig DocumentNorms() {
  ClassifierConfig config = EncoderConfig();
  config.vocab = 0;
  config.features = 24;
  config.norm_over = NormOver::kDocument;
  config.document_rows = 17;
  return config;
}

struct Pass {
  ClassifierConfig config = EncoderConfig();
  std::vector<int64_t> lengths = {5, 1, 40, 17};
  std::vector<int64_t> padding = {0, 0, 0, 0};
  DType compute = DType::kF32;
  int ring = 1;
  int threads = 1;
  Layout layout = Layout::kContiguous;
};

struct Result {
  ClassSum sum;
  std::vector<float> logits;
  std::map<std::string, std::vector<double>> gradients;
};

int32_t TokenAt(const ClassifierConfig& config, size_t document, int64_t word) {
  Random random(5, document, static_cast<uint64_t>(word));
  return 1 + static_cast<int32_t>(random.Below(static_cast<uint64_t>(config.vocab - 1)));
}

float FeatureAt(size_t document, int64_t word, int64_t column) {
  Random random(6, document, static_cast<uint64_t>(word * 1000 + 2 * column));
  return random.Normal();
}

// The batch of a pass, with this rank's rows.
struct Inputs {
  explicit Inputs(const Pass& pass, int rank) {
    int64_t rows = 0;
    std::vector<std::pair<size_t, int64_t>> places;
    for (size_t d = 0; d < pass.lengths.size(); ++d) {
      const int64_t length = pass.lengths[d] + pass.padding[d];
      batch.documents.push_back({rows, rows + length, pass.lengths[d]});
      labels.push_back(static_cast<int32_t>(d % static_cast<size_t>(pass.config.classes)));
      for (int64_t word = 0; word < length; ++word) places.emplace_back(d, word);
      rows += length;
    }
    for (int r = 0; r < pass.ring; ++r) {
      batch.positions.push_back(ShardPositions(pass.layout, rows, pass.ring, r));
    }
    const Positions& mine = batch.positions[static_cast<size_t>(rank)];
    for (int64_t i = 0; i < Count(mine); ++i) {
      const auto [document, word] = places[static_cast<size_t>(At(mine, i))];
      if (pass.config.vocab > 0) {
        tokens.push_back(word < pass.lengths[document] ? TokenAt(pass.config, document, word) : 0);
      }
      if (pass.config.word_pairs > 0) {
        pairs.push_back(word == 0
                            ? -1
                            : static_cast<int32_t>((7 * word + static_cast<int64_t>(document)) %
                                                   pass.config.word_pairs));
      }
      for (int64_t j = 0; j < pass.config.features; ++j) {
        features.push_back(FeatureAt(document, word, j));
      }
    }
    batch.tokens = tokens;
    batch.pairs = pairs;
    if (pass.config.vocab == 0) {
      batch.features = {features.data(), DType::kF32, {Count(mine), pass.config.features}};
    }
    batch.labels = labels;
    batch.dropout_seed = 99;
  }

  DocumentBatch batch;
  std::vector<int32_t> tokens;
  std::vector<int32_t> pairs;
  std::vector<int32_t> labels;
  std::vector<float> features;
};

// Larger weights than the usual start, and none that is 0, so that every term matters.
void Shake(Classifier& model) {
  Random random(3, 0);
  for (Parameter& parameter : model.parameters()) {
    for (int64_t i = 0; i < parameter.value.elements(); ++i) {
      parameter.value.data<float>()[i] += 0.15f * random.Normal();
    }
  }
  model.ParametersChanged();
}

Result Execute(const Pass& pass, const std::string& changed = "", int64_t element = 0,
               float change = 0) {
  Result result;
  std::mutex mutex;
  Launch({.ring = pass.ring, .data_parallel = 1, .threads = pass.threads}, [&](Rank& rank) {
    const auto model = MakeClassifier(rank.context, pass.config, pass.compute);
    model->Initialize(9);
    Shake(*model);
    for (Parameter& parameter : model->parameters()) {
      parameter.gradient.Zero();
      if (parameter.name == changed) parameter.value.data<float>()[element] += change;
    }
    model->ParametersChanged();
    const Inputs inputs(pass, rank.ring.rank());
    const int64_t documents = std::ssize(pass.lengths);
    Tensor logits(rank.context.meter, MemoryCategory::kWorkspace, DType::kF32,
                  {documents, pass.config.classes});
    model->Logits(rank.ring, inputs.batch, logits.view());
    const ClassSum sum = model->ForwardBackward(rank.ring, inputs.batch, 1.0f);
    const std::lock_guard lock(mutex);
    result.sum.nats += sum.nats;
    result.sum.correct += sum.correct;
    result.sum.documents += sum.documents;
    result.logits.assign(logits.data<float>(), logits.data<float>() + logits.elements());
    for (const Parameter& parameter : model->parameters()) {
      std::vector<double>& total = result.gradients[parameter.name];
      total.resize(static_cast<size_t>(parameter.gradient.elements()));
      for (size_t i = 0; i < total.size(); ++i) total[i] += parameter.gradient.data<float>()[i];
    }
  });
  return result;
}

double LargestError(const std::vector<double>& actual, const std::vector<double>& expected) {
  double error = 0;
  double scale = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error = std::max(error, std::abs(actual[i] - expected[i]));
    scale = std::max(scale, std::abs(expected[i]));
  }
  return scale == 0 ? error : error / scale;
}

void ExpectSame(const Result& actual, const Result& expected, double bound) {
  EXPECT_NEAR(actual.sum.nats, expected.sum.nats, bound * std::abs(expected.sum.nats));
  EXPECT_EQ(actual.sum.documents, expected.sum.documents);
  EXPECT_EQ(actual.sum.correct, expected.sum.correct);
  ASSERT_EQ(actual.logits.size(), expected.logits.size());
  for (size_t i = 0; i < expected.logits.size(); ++i) {
    EXPECT_NEAR(actual.logits[i], expected.logits[i], 10 * bound);
  }
  for (const auto& [name, gradient] : expected.gradients) {
    EXPECT_LE(LargestError(actual.gradients.at(name), gradient), bound) << name;
  }
}

std::vector<Pass> Networks() {
  std::vector<Pass> passes(6);
  passes[1].config.norm_place = NormPlace::kBefore;
  passes[1].config.rope_theta = 100;
  passes[1].config.dropout = 0.2;
  passes[1].config.input_dropout = 0.1;
  passes[1].config.attention_dropout = 0.3;
  passes[1].config.head_dropout = 0.25;
  passes[2].config = DocumentNorms();
  passes[2].lengths = {17, 17, 17, 17};
  passes[3].config.vocab = 0;
  passes[3].config.features = 11;
  passes[3].padding = {3, 2, 0, 1};
  passes[4].config.network = Network::kWordsSeen;
  passes[5].config.word_pairs = 11;
  return passes;
}

TEST(Classifier, GradientsAreTheLossesSlopes) {
  for (size_t network = 0; network < Networks().size(); ++network) {
    SCOPED_TRACE(network);
    const Pass pass = Networks()[network];
    const Result result = Execute(pass);
    EXPECT_EQ(result.sum.documents, 4);
    Random random(8, network);
    for (const auto& [name, gradient] : result.gradients) {
      // The largest element, which f32's rounding of the loss hides least, and a random one.
      const auto largest =
          std::max_element(gradient.begin(), gradient.end(),
                           [](double a, double b) { return std::abs(a) < std::abs(b); });
      const double scale = std::abs(*largest);
      ASSERT_GT(scale, 0) << name;
      for (const int64_t element :
           {largest - gradient.begin(), static_cast<int64_t>(random.Below(gradient.size()))}) {
        constexpr float kStep = 4e-3f;
        const double up = Execute(pass, name, element, kStep).sum.nats;
        const double down = Execute(pass, name, element, -kStep).sum.nats;
        const double slope = (up - down) / (2 * kStep);
        EXPECT_NEAR(gradient[static_cast<size_t>(element)], slope, 0.02 * scale + 3e-3)
            << name << " " << element;
      }
    }
  }
}

TEST(Classifier, EveryRingAndLayoutGivesTheSame) {
  for (const Pass& network : Networks()) {
    const Result one = Execute(network);
    for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
      for (const int ring : {2, 3, 5}) {
        Pass pass = network;
        pass.layout = layout;
        pass.ring = ring;
        pass.threads = 1 + ring % 2;
        SCOPED_TRACE(testing::Message() << Name(layout) << " ring " << ring);
        ExpectSame(Execute(pass), one, 1e-5);
      }
    }
  }
}

TEST(Classifier, TheSameBitsTwice) {
  Pass pass = Networks()[1];
  pass.ring = 3;
  pass.threads = 2;
  const Result first = Execute(pass);
  const Result second = Execute(pass);
  EXPECT_EQ(first.logits, second.logits);
  EXPECT_EQ(first.gradients, second.gradients);
}

TEST(Classifier, DocumentsDoNotSeeEachOther) {
  for (Pass pass : Networks()) {
    const std::vector<float> packed = Execute(pass).logits;
    // Without the others, the first document's words are the same.
    pass.lengths.resize(1);
    const std::vector<float> alone = Execute(pass).logits;
    for (size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(alone[i], packed[i], 1e-5);
  }
}

// Twenty-odd roundings to 8 bits one after another, each up to 2^-9 of what it rounds, in a network
// whose weights are large enough to amplify them several times.
TEST(Classifier, Bf16IsNear) {
  for (Pass pass : Networks()) {
    const Result exact = Execute(pass);
    pass.compute = DType::kBF16;
    const Result rounded = Execute(pass);
    for (const auto& [name, gradient] : exact.gradients) {
      double error = 0;
      double square = 0;
      for (size_t i = 0; i < gradient.size(); ++i) {
        const double away = rounded.gradients.at(name)[i] - gradient[i];
        error += away * away;
        square += gradient[i] * gradient[i];
      }
      EXPECT_LE(std::sqrt(error), 0.1 * std::sqrt(square)) << name;
    }
  }
}

// Two rows that the mean takes apart from what the document norm subtracts: with norms over the
// document nothing of its sum reaches the second layer but through attention.
TEST(Classifier, ANormOverTheDocumentHidesItsSum) {
  Pass pass;
  pass.config = DocumentNorms();
  pass.lengths = {17};
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  const auto model = MakeClassifier(context, pass.config, DType::kF32);
  model->Initialize(4);
  for (Parameter& parameter : model->parameters()) {
    if (parameter.name.find("out_proj") != std::string::npos) parameter.value.Zero();
  }
  model->ParametersChanged();
  Inputs inputs(pass, 0);
  std::vector<float> before(3);
  std::vector<float> after(3);
  Launch({.ring = 1, .data_parallel = 1, .threads = 1}, [&](Rank& rank) {
    const auto logits = [&](std::vector<float>& to) {
      model->Logits(rank.ring, inputs.batch, {to.data(), DType::kF32, {1, 3}});
    };
    logits(before);
    for (float& feature : inputs.features) feature += 0.5f;
    logits(after);
  });
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(before[i], after[i], 1e-5);
}

TEST(Classifier, RefusesWhatDoesNotFit) {
  MemoryMeter meter;
  ThreadTeam team(1);
  Context context{team, meter};
  const auto refused = [&](auto change) {
    ClassifierConfig config = EncoderConfig();
    change(config);
    EXPECT_THROW(MakeClassifier(context, config, DType::kF32), UsageError);
  };
  refused([](ClassifierConfig& config) { config.heads = 5; });
  refused([](ClassifierConfig& config) { config.classes = 1; });
  refused([](ClassifierConfig& config) { config.dropout = 1; });
  refused([](ClassifierConfig& config) { config.vocab = 0; });
  refused([](ClassifierConfig& config) {
    config.network = Network::kWordsSeen;
    config.word_pairs = 5;
  });
  refused([](ClassifierConfig& config) { config.norm_over = NormOver::kDocument; });
  EXPECT_THROW(ParseNetwork("encode"), UsageError);
  Pass pass;
  const auto model = MakeClassifier(context, pass.config, DType::kF32);
  model->Initialize(1);
  Launch({.ring = 1, .data_parallel = 1, .threads = 1}, [&](Rank& rank) {
    Inputs inputs(pass, 0);
    inputs.tokens[3] = 29;
    EXPECT_THROW(model->ForwardBackward(rank.ring, inputs.batch, 1), UsageError);
    inputs.tokens[3] = 2;
    inputs.labels[0] = 3;
    EXPECT_THROW(model->ForwardBackward(rank.ring, inputs.batch, 1), UsageError);
    inputs.labels[0] = 0;
    inputs.batch.documents[1].begin = 4;
    EXPECT_THROW(model->ForwardBackward(rank.ring, inputs.batch, 1), ShapeError);
  });
}

}  // namespace
}  // namespace ringwise
