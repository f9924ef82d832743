#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/llama.h"
#include "ringwise/random.h"

// For tests: a pass through a small model, as data.
namespace ringwise {

inline constexpr double kTheta = 1000;

inline ModelConfig SmallConfig(bool tied) {
  return {.hidden = 24,
          .layers = 2,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 8,
          .ffn = 37,
          .vocab = 53,
          .max_positions = 4096,
          .tied_embeddings = tied};
}

struct Pass {
  ModelConfig config = SmallConfig(false);
  DType compute = DType::kF32;
  int ring = 1;
  int threads = 1;
  Layout layout = Layout::kContiguous;
  AttentionDesign design = AttentionDesign::kRing;
  Recompute recompute = Recompute::kNone;
  int64_t batch = 2;
  int64_t context = 45;
  float gradient_scale = 0.5f;
  double dropout = 0;
  std::vector<int64_t> ends;  // of the documents in each sequence, but the last; none: no documents
  std::vector<MaskSlice> slices;       // none: everywhere
  std::function<void(Llama&)> change;  // of the parameters, before the pass
};

struct Result {
  LossSum loss;
  LossSum forward_loss;
  std::map<std::string, std::vector<double>> gradients;
  MemoryMeter::Reading peak;  // largest rank
};

inline int32_t TokenAt(const ModelConfig& config, int64_t sequence, int64_t position) {
  Random random(5, static_cast<uint64_t>(sequence), static_cast<uint64_t>(position));
  return static_cast<int32_t>(random.Below(static_cast<uint64_t>(config.vocab)));
}

inline Segments DocumentsOf(const Pass& run) {
  Segments documents;
  int64_t begin = 0;
  for (const int64_t end : run.ends) {
    documents.push_back({begin, end, static_cast<int32_t>(documents.size())});
    begin = end;
  }
  documents.push_back({begin, run.context, static_cast<int32_t>(documents.size())});
  return documents;
}

// A window and documents, so that no part of the mask is whole, and dropout.
inline Pass MaskedPass() {
  Pass run;
  run.config.window = 9;
  run.ends = {4, 5, 26};
  run.dropout = 0.3;
  return run;
}

inline Result Execute(const Pass& run) {
  Result result;
  std::mutex mutex;
  Launch({.ring = run.ring, .data_parallel = 1, .threads = run.threads}, [&](Rank& rank) {
    Llama model(rank.context, run.config, run.compute);
    model.UseAttention(run.design);
    model.Initialize(9);
    // Larger than the usual start, so that every term of every gradient matters.
    for (Parameter& parameter : model.parameters()) {
      for (int64_t i = 0; parameter.decays && i < parameter.value.elements(); ++i) {
        parameter.value.data<float>()[i] *= 10;
      }
    }
    if (run.change) run.change(model);
    model.ParametersChanged();
    model.ZeroGradients();
    TokenBatch batch;
    batch.batch = run.batch;
    for (int r = 0; r < run.ring; ++r) {
      batch.positions.push_back(ShardPositions(run.layout, run.context, run.ring, r));
    }
    const Positions& mine = batch.positions[rank.ring.rank()];
    std::vector<int32_t> tokens;
    std::vector<int32_t> targets;
    for (int64_t sequence = 0; sequence < run.batch; ++sequence) {
      for (int64_t i = 0; i < Count(mine); ++i) {
        const int64_t position = At(mine, i);
        tokens.push_back(TokenAt(run.config, sequence, position));
        targets.push_back(position % 7 == 3 ? -1 : TokenAt(run.config, sequence, position + 1));
      }
    }
    batch.tokens = tokens;
    batch.targets = targets;
    batch.dropout = {.probability = run.dropout, .seed = 77, .first_batch = 3};
    if (!run.ends.empty()) {
      const std::vector<Segments> sequences(static_cast<size_t>(run.batch), DocumentsOf(run));
      batch.documents = std::make_shared<SegmentMap>(sequences, sequences);
    }
    if (!run.slices.empty()) {
      batch.slices = std::make_shared<std::vector<MaskSlice>>(run.slices);
    }
    const LossSum forward = model.Forward(rank.ring, batch, kTheta);
    rank.context.meter.ResetPeak();
    const LossSum loss =
        model.ForwardBackward(rank.ring, batch, kTheta, run.recompute, run.gradient_scale);
    const std::lock_guard<std::mutex> lock(mutex);
    result.loss.nats += loss.nats;
    result.loss.tokens += loss.tokens;
    result.forward_loss.nats += forward.nats;
    result.forward_loss.tokens += forward.tokens;
    for (const Parameter& parameter : model.parameters()) {
      std::vector<double>& sum = result.gradients[parameter.name];
      sum.resize(static_cast<size_t>(parameter.gradient.elements()));
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += parameter.gradient.data<float>()[i];
    }
    const MemoryMeter::Reading peak = rank.context.meter.peak();
    result.peak.working = std::max(result.peak.working, peak.working);
    result.peak.largest_allocation =
        std::max(result.peak.largest_allocation, peak.largest_allocation);
  });
  return result;
}

// Largest difference over largest magnitude of each gradient.
inline double LargestError(const Result& actual, const Result& expected) {
  double worst = 0;
  for (const auto& [name, reference] : expected.gradients) {
    const std::vector<double>& values = actual.gradients.at(name);
    double error = 0;
    double scale = 0;
    for (size_t i = 0; i < reference.size(); ++i) {
      error = std::max(error, std::abs(values[i] - reference[i]));
      scale = std::max(scale, std::abs(reference[i]));
    }
    if (!(error <= 1e-4 * scale)) ADD_FAILURE() << name << " " << error << " of " << scale;
    worst = std::max(worst, error / scale);
  }
  return worst;
}

}  // namespace ringwise
