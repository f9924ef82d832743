// One forward and backward pass of a model folder, for tests/llama_test.py:
//   llama_probe MODEL INPUTS OUT RING LAYOUT RECOMPUTE DTYPE THREADS
// INPUTS holds `tokens` and `targets`, I32 [batch, seq]; a negative target means no loss. OUT gets,
// all F32: `loss` [1], the mean over targets; `logits` [batch, seq, vocab]; and under each
// parameter's name the gradient of `loss`.
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "probe_tensors.h"
#include "ringwise/error.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"
#include "ringwise/model_folder.h"
#include "ringwise/safetensors.h"

namespace ringwise {
namespace {

int Main(const std::vector<std::string>& args) {
  if (args.size() != 8) {
    throw UsageError("usage: llama_probe MODEL INPUTS OUT RING LAYOUT RECOMPUTE DTYPE THREADS");
  }
  const SafetensorsFile inputs(args[1]);
  const SafetensorsEntry& entry = inputs.at("tokens");
  const std::vector<int32_t> tokens = Elements<int32_t>(entry);
  const std::vector<int32_t> targets = Elements<int32_t>(inputs.at("targets"));
  const int64_t batch = entry.shape.at(0);
  const int64_t seq = entry.shape.at(1);
  int64_t counted = 0;
  for (const int32_t target : targets) counted += target >= 0 ? 1 : 0;
  const int ring = std::stoi(args[3]);
  const Layout layout = ParseLayout(args[4]);
  const Recompute recompute = ParseRecompute(args[5]);
  const DType dtype = args[6] == "bf16" ? DType::kBF16 : DType::kF32;

  std::mutex mutex;
  double nats = 0;
  std::vector<float> logits;
  int64_t vocab = 0;
  std::optional<GradientCopies> gradients;

  Launch({.ring = ring, .data_parallel = 1, .threads = std::stoi(args[7])}, [&](Rank& rank) {
    const std::unique_ptr<Llama> model = LoadModel(rank.context, args[0], dtype);
    TokenBatch part;
    part.batch = batch;
    for (int r = 0; r < ring; ++r) part.positions.push_back(ShardPositions(layout, seq, ring, r));
    const Positions& mine = part.positions[rank.ring.rank()];
    const int64_t length = Count(mine);
    std::vector<int32_t> my_tokens;
    std::vector<int32_t> my_targets;
    for (int64_t sequence = 0; sequence < batch; ++sequence) {
      for (int64_t i = 0; i < length; ++i) {
        my_tokens.push_back(tokens[sequence * seq + At(mine, i)]);
        my_targets.push_back(targets[sequence * seq + At(mine, i)]);
      }
    }
    part.tokens = my_tokens;
    part.targets = my_targets;
    model->ZeroGradients();
    const double theta = model->config().rope_theta;
    const LossSum loss = model->ForwardBackward(rank.ring, part, theta, recompute,
                                                1.0f / static_cast<float>(counted));
    Tensor my_logits(rank.context.meter, MemoryCategory::kWorkspace, DType::kF32,
                     {batch * length, model->config().vocab});
    model->Logits(rank.ring, part, theta, my_logits.view());
    for (Parameter& parameter : model->parameters()) {
      rank.ring.AllReduceSum(std::span(parameter.gradient.data<float>(),
                                       static_cast<size_t>(parameter.gradient.elements())));
    }

    const std::lock_guard<std::mutex> lock(mutex);
    nats += loss.nats;
    vocab = model->config().vocab;
    logits.resize(static_cast<size_t>(batch * seq * vocab));
    for (int64_t row = 0; row < batch * length; ++row) {
      const int64_t place = row / length * seq + At(mine, row % length);
      std::memcpy(&logits[place * vocab], my_logits.data<float>() + row * vocab,
                  static_cast<size_t>(vocab) * sizeof(float));
    }
    if (rank.ring.rank() == 0) gradients.emplace(model->parameters());
  });

  const std::vector<float> loss = {static_cast<float>(nats / static_cast<double>(counted))};
  std::vector<NamedBytes> tensors = {Named("loss", {1}, loss),
                                     Named("logits", {batch, seq, vocab}, logits)};
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
