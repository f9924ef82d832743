#include "benchmark/context_step.h"

#include <algorithm>
#include <span>

#include "ringwise/random.h"
#include "ringwise/thread_team.h"

namespace ringwise {
namespace {

constexpr double kTheta = 10000;
constexpr uint64_t kSeed = 13;
constexpr double kLearningRate = 1e-3;

int32_t TokenAt(int64_t position, int64_t vocab) {
  Random random(kSeed, static_cast<uint64_t>(position));
  return static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab)));
}

}  // namespace

MeshOptions ContextMesh(int ranks) {
  MeshOptions mesh;
  mesh.ring = ranks;
  mesh.data_parallel = 1;
  mesh.threads = std::max(1, AvailableCores() / ranks);
  // More ranks than cores wait for each other's turns.
  mesh.timeout_seconds = 3600;
  return mesh;
}

std::shared_ptr<const std::vector<MaskSlice>> SlicesOf(const ContextDesign& design, int64_t heads,
                                                       int64_t context) {
  if (!design.sparse) return nullptr;
  auto slices = std::make_shared<std::vector<MaskSlice>>();
  const auto blocks = static_cast<int>(heads);
  for (int head = 0; head < blocks; ++head) {
    for (int block = 0; block < blocks; ++block) {
      const Range queries = SplitRange(context, blocks, block);
      const Range keys = SplitRange(context, blocks, (block - head + blocks) % blocks);
      slices->push_back({head, queries.begin, queries.end, keys.begin, keys.end});
    }
  }
  return slices;
}

ContextStep::ContextStep(Rank& rank, Context& context, const ContextOptions& options,
                         const ContextDesign& design, int64_t tokens)
    : rank_(rank),
      options_(options),
      sequence_(tokens),
      model_(context, options.model, options.dtype) {
  model_.UseAttention(design.attention);
  model_.Initialize(kSeed);
  model_.ZeroGradients();
  for (int r = 0; r < rank.ring.size(); ++r) {
    batch_.positions.push_back(ShardPositions(design.layout, tokens, rank.ring.size(), r));
  }
  for (const PositionRun& run : batch_.positions[static_cast<size_t>(rank.ring.rank())]) {
    for (int64_t i = 0; i < run.count; ++i) {
      tokens_.push_back(TokenAt(run[i], options.model.vocab));
      targets_.push_back(TokenAt(run[i] + 1, options.model.vocab));
    }
  }
  batch_.batch = 1;
  batch_.tokens = tokens_;
  batch_.targets = targets_;
  batch_.slices = SlicesOf(design, options.model.heads, tokens);
  if (!context.team.rehearses()) {
    optimizer_.emplace(context, model_.parameters(), AdamWOptions{.weight_decay = 0.1});
  }
}

double ContextStep::ForwardBackward() {
  const auto scale = static_cast<float>(1 / static_cast<double>(sequence_));
  double nats = model_.ForwardBackward(rank_.ring, batch_, kTheta, options_.recompute, scale).nats;
  rank_.ring.AllReduceSum(std::span<double>(&nats, 1));
  return nats / static_cast<double>(sequence_);
}

void ContextStep::Update() {
  for (Parameter& parameter : model_.parameters()) {
    rank_.ring.AllReduceSum(
        {parameter.gradient.data<float>(), static_cast<size_t>(parameter.gradient.elements())});
  }
  optimizer_->Step(++step_, kLearningRate, 1);
  model_.ParametersChanged();
  model_.ZeroGradients();
}

}  // namespace ringwise
