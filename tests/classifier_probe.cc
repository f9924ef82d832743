// One forward and backward pass of a classifier's folder, for tests/classifier_test.py:
//   classifier_probe MODEL INPUTS OUT RING LAYOUT DTYPE THREADS
// INPUTS holds I32 `rows`, `words` and `labels`, each [documents], and of all documents' rows one
// after another either `tokens`, I32 [rows], or `features`, F32 [rows, features]. OUT gets, all
// F32: `loss` [1], the mean over documents; `logits` [documents, classes]; and under each
// parameter's name the gradient of `loss`.
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "probe_tensors.h"
#include "ringwise/classify.h"
#include "ringwise/error.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/safetensors.h"

namespace ringwise {
namespace {

struct Documents {
  explicit Documents(const std::string& path) {
    const SafetensorsFile file(path);
    labels = Elements<int32_t>(file.at("labels"));
    const std::vector<int32_t> lengths = Elements<int32_t>(file.at("rows"));
    const std::vector<int32_t> words = Elements<int32_t>(file.at("words"));
    for (size_t i = 0; i < lengths.size(); ++i) {
      packed.push_back({rows, rows + lengths[i], words[i]});
      rows += lengths[i];
    }
    if (file.entries().contains("tokens")) {
      tokens = Elements<int32_t>(file.at("tokens"));
    } else {
      features = Elements<float>(file.at("features"));
    }
  }

  int64_t rows = 0;
  std::vector<PackedDocument> packed;
  std::vector<int32_t> labels;
  std::vector<int32_t> tokens;
  std::vector<float> features;
};

int Main(const std::vector<std::string>& args) {
  if (args.size() != 7) {
    throw UsageError("usage: classifier_probe MODEL INPUTS OUT RING LAYOUT DTYPE THREADS");
  }
  const Documents documents(args[1]);
  const auto count = static_cast<int64_t>(documents.packed.size());
  const int ring = std::stoi(args[3]);
  const Layout layout = ParseLayout(args[4]);
  const DType dtype = args[5] == "bf16" ? DType::kBF16 : DType::kF32;

  std::mutex mutex;
  double nats = 0;
  int64_t classes = 0;
  std::vector<float> logits;
  std::optional<GradientCopies> gradients;

  Launch({.ring = ring, .data_parallel = 1, .threads = std::stoi(args[6])}, [&](Rank& rank) {
    const std::unique_ptr<Classifier> model = LoadClassifier(rank.context, args[0], dtype);
    const ClassifierConfig& config = model->config();
    DocumentBatch batch{.documents = documents.packed,
                        .positions = {},
                        .tokens = {},
                        .features = {},
                        .labels = documents.labels};
    for (int r = 0; r < ring; ++r) {
      batch.positions.push_back(ShardPositions(layout, documents.rows, ring, r));
    }
    const Positions& mine = batch.positions[rank.ring.rank()];
    std::vector<int32_t> tokens;
    std::vector<float> features;
    for (int64_t i = 0; i < Count(mine); ++i) {
      const int64_t row = At(mine, i);
      if (config.vocab > 0) {
        tokens.push_back(documents.tokens.at(row));
      } else {
        const auto begin = documents.features.begin() + row * config.features;
        features.insert(features.end(), begin, begin + config.features);
      }
    }
    batch.tokens = tokens;
    if (config.vocab == 0) {
      batch.features = {features.data(), DType::kF32, {Count(mine), config.features}};
    }
    for (Parameter& parameter : model->parameters()) parameter.gradient.Zero();
    const ClassSum sum = model->ForwardBackward(rank.ring, batch, 1.0f / static_cast<float>(count));
    Tensor my_logits(rank.context.meter, MemoryCategory::kWorkspace, DType::kF32,
                     {count, config.classes});
    model->Logits(rank.ring, batch, my_logits.view());
    for (Parameter& parameter : model->parameters()) {
      rank.ring.AllReduceSum(std::span(parameter.gradient.data<float>(),
                                       static_cast<size_t>(parameter.gradient.elements())));
    }

    const std::lock_guard<std::mutex> lock(mutex);
    nats += sum.nats;
    if (rank.ring.rank() != 0) return;
    classes = config.classes;
    logits.assign(my_logits.data<float>(), my_logits.data<float>() + my_logits.elements());
    gradients.emplace(model->parameters());
  });

  const std::vector<float> loss = {static_cast<float>(nats / static_cast<double>(count))};
  std::vector<NamedBytes> tensors = {Named("loss", {1}, loss),
                                     Named("logits", {count, classes}, logits)};
  gradients->AppendTo(tensors);
  WriteSafetensors(args[2], tensors);
  return 0;
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) {
  try {
    return ringwise::Main({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
