#include "planner/memory_model.h"

#include <algorithm>

#include "planner/model_shape.h"
#include "planner/traffic.h"
#include "transformer/sequence_shard.h"

namespace ringwise {
namespace {

constexpr double kF32 = 4;
constexpr double kMoments = 8;  // bytes a parameter

// The layer at work, the next one on its way, and the gradient of one: what FSDP has whole.
constexpr double kGatheredLayers = 2;

// Of `ringwise train`: groups of heads that attention takes one after another, for this device's
// rows of all sequences; and the rows between attentions and logits that are held at a time.
double GroupsOfHeads(const PlanOptions& options, double rows) {
  if (options.recompute == Recompute::kNone) return 1;
  const auto shard = static_cast<int64_t>(rows / static_cast<double>(options.batch));
  return static_cast<double>(HeadGroups(shard, options.model.kv_heads));
}
constexpr double kBlockRows = 512;
constexpr double kLogits = 1 << 22;
constexpr double kLeastLogitRows = 64;

double KeptPerRow(const ModelShape& shape, Recompute recompute, double size) {
  const double logsumexp = 4 * shape.heads;
  switch (recompute) {
    case Recompute::kNone:
      return (2 * shape.hidden + 2 * shape.query + 2 * shape.key + 2 * shape.ffn) * size +
             logsumexp;
    case Recompute::kAttention:
      return (shape.hidden + shape.query) * size + logsumexp;
    case Recompute::kBlock:
      return shape.hidden * size;
  }
  return 0;
}

// Of one layer where most is held, in attention's backward: the residual stream's gradient, query,
// key and value unless they were kept, the attention's output unless that was, all their gradients,
// and of a head group the query's gradient in f32 with its statistics.
double WorkPerRow(const ModelShape& shape, const PlanOptions& options, double size, double groups) {
  const double qkv = shape.query + 2 * shape.key;
  const double recomputed = options.recompute == Recompute::kNone    ? 0
                            : options.recompute == Recompute::kBlock ? qkv + shape.query
                                                                     : qkv;
  const double gradients = shape.hidden + qkv + shape.query;
  return (recomputed + gradients) * size + (kF32 * shape.query + 8 * shape.heads) / groups;
}

// Two shards of what travels and one and a half of its gradients; in bf16 also the sums of dk and
// dv at home, in f32, as even one rank has them.
double RingBuffersPerRow(const PlanOptions& options, double groups) {
  const ModelShape shape(options.model);
  const double sums_at_home = options.dtype == DType::kBF16 ? 2 * shape.key * kF32 : 0;
  if (options.ring == 1) return sums_at_home / groups;
  const RowTraffic traffic = BackwardTraffic(options.model, options.dtype);
  return (2 * traffic.block + 1.5 * traffic.gradient + sums_at_home) / groups;
}

double Workspace(const ModelShape& shape, double size, double rows) {
  const double logit_rows =
      std::min({rows, kBlockRows, std::max(kLeastLogitRows, kLogits / shape.vocab)});
  return std::min(rows, kBlockRows) * (3 * shape.hidden + 4 * shape.ffn) * size +
         logit_rows * (shape.vocab * (kF32 + size) + 2 * shape.hidden * size);
}

}  // namespace

PlannedMemory OwnMemory(const PlanOptions& options, bool sharded, double rows) {
  const ModelShape shape(options.model);
  const auto size = static_cast<double>(SizeOf(options.dtype));
  const double devices = sharded ? static_cast<double>(options.devices) : 1;
  // Of the matrices that are whole, two copies in the compute type, packed for products.
  const double whole =
      sharded ? std::max(kGatheredLayers * shape.layer_parameters, shape.hidden * shape.vocab)
              : shape.matrix_parameters;
  const double groups = GroupsOfHeads(options, rows);
  const double whole_gradients =
      sharded ? std::max(shape.layer_parameters, shape.hidden * shape.vocab) : 0;
  return {
      .parameters = kF32 * shape.parameters / devices + 2 * size * whole,
      .gradients = kF32 * (shape.parameters / devices + whole_gradients),
      .optimizer = kMoments * shape.parameters / devices,
      .activations = rows * (shape.layers * KeptPerRow(shape, options.recompute, size) +
                             WorkPerRow(shape, options, size, groups)),
      .ring_buffers = rows * RingBuffersPerRow(options, groups),
      .workspace = Workspace(shape, size, rows),
  };
}

PlannedMemory PaperMemory(const PlanOptions& options, double rows) {
  const ModelShape shape(options.model);
  const auto devices = static_cast<double>(options.devices);
  constexpr double kBlocks = 6;
  constexpr double kInputsOfALayer = 2;
  const double gathered = devices > 1 ? kF32 * shape.layer_parameters : 0;
  return {
      .parameters = kF32 * shape.parameters / devices + kGatheredLayers * gathered,
      .gradients = kF32 * shape.parameters / devices + gathered,
      .optimizer = kMoments * shape.parameters / devices,
      .activations = rows * kInputsOfALayer * shape.layers * shape.hidden * kF32,
      .ring_buffers = rows * kBlocks * shape.hidden * kF32,
  };
}

double BlocksHeld(const PlanOptions& options) {
  const ModelShape shape(options.model);
  const auto size = static_cast<double>(SizeOf(options.dtype));
  const double shared = shape.key / shape.query;
  const double own = 2 + 2 * shared;  // query and output, key and value
  const double buffers = options.ring > 1 ? 4 * shared : 0;
  const double sums = options.dtype == DType::kBF16 ? kF32 / size : 0;  // of the output
  return own + buffers + sums;
}

}  // namespace ringwise
