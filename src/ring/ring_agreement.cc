#include "ring/ring_agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "attention/attention_checks.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

// What must be the same on every rank.
constexpr std::array<const char*, 10> kNames = {
    "batch",           "heads",        "kv_heads",         "head_dim",
    "value_dim",       "dtype",        "scale (its bits)", "causal",
    "query_positions", "key_positions"};
using Record = std::array<int64_t, kNames.size()>;

// FNV-1a: different positions give different numbers, as good as always.
int64_t Fingerprint(const std::vector<Positions>& all) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto mix = [&](int64_t value) {
    hash = (hash ^ static_cast<uint64_t>(value)) * 0x100000001b3u;
  };
  for (const Positions& positions : all) {
    mix(std::ssize(positions));
    for (const PositionRun& run : positions) {
      mix(run.start);
      mix(run.count);
      mix(run.stride);
    }
  }
  return static_cast<int64_t>(hash);
}

int64_t QueryCount(const Communicator& ring, const RingAttentionOptions& options) {
  return Count(options.query_positions[ring.rank()]);
}
int64_t KeyCount(const Communicator& ring, const RingAttentionOptions& options) {
  return Count(options.key_positions[ring.rank()]);
}

AttentionShape ShapeOf(const Communicator& ring, const RingAttentionOptions& options,
                       const AttentionInputs& inputs) {
  for (const auto* positions : {&options.query_positions, &options.key_positions}) {
    if (static_cast<int>(positions->size()) != ring.size()) {
      throw ShapeError(fmt::format("attention: positions of {} ranks are needed, found {}",
                                   ring.size(), positions->size()));
    }
  }
  const auto check_rank = [](const char* name, const ConstTensorView& view) {
    if (view.shape.rank() == 4) return;
    throw ShapeError(fmt::format("attention: {} must be [batch, length, heads, head_dim], found {}",
                                 name, view.shape.ToString()));
  };
  check_rank("query", inputs.query);
  check_rank("key", inputs.key);
  check_rank("value", inputs.value);
  const AttentionShape shape{.batch = inputs.query.shape[0],
                             .heads = inputs.query.shape[2],
                             .kv_heads = inputs.key.shape[2],
                             .head_dim = inputs.query.shape[3],
                             .value_dim = inputs.value.shape[3],
                             .dtype = inputs.query.dtype};
  CheckAttentionShape(shape);
  CheckQueryRows("query", inputs.query, shape, QueryCount(ring, options), shape.head_dim);
  CheckDType("query", inputs.query, shape.dtype);
  CheckKeyValue(inputs.key, inputs.value, shape, KeyCount(ring, options));
  return shape;
}

// Calls check(), which gives the shape or throws, and makes all ranks agree.
template <class Check>
AttentionShape Agree(Communicator& ring, const RingAttentionOptions& options, const Check& check) {
  if (ring.size() == 1) return check();
  AttentionShape shape;
  std::string problem;
  try {
    shape = check();
  } catch (const Error& error) {
    problem = error.what();
  }
  const double scale = options.scale.value_or(-1.0);
  int64_t scale_bits = 0;
  std::memcpy(&scale_bits, &scale, sizeof(scale));
  const Record mine = {shape.batch,
                       shape.heads,
                       shape.kv_heads,
                       shape.head_dim,
                       shape.value_dim,
                       static_cast<int64_t>(shape.dtype),
                       scale_bits + (options.scale ? 1 : 0),
                       options.mask.causal ? 1 : 0,
                       Fingerprint(options.query_positions),
                       Fingerprint(options.key_positions)};
  std::vector<std::byte> message(sizeof(mine) + problem.size());
  std::memcpy(message.data(), &mine, sizeof(mine));
  if (!problem.empty()) std::memcpy(message.data() + sizeof(mine), problem.data(), problem.size());

  const auto all = ring.AllGather(message);
  for (int rank = 0; rank < ring.size(); ++rank) {
    if (all[rank].size() == sizeof(Record)) continue;
    const auto* text = reinterpret_cast<const char*>(all[rank].data());
    throw ShapeError(fmt::format("{} (on rank {} of the ring)",
                                 std::string(text + sizeof(Record), text + all[rank].size()),
                                 rank));
  }
  Record first{};
  std::memcpy(&first, all[0].data(), sizeof(first));
  for (int rank = 1; rank < ring.size(); ++rank) {
    Record theirs{};
    std::memcpy(&theirs, all[rank].data(), sizeof(theirs));
    const auto differs = std::mismatch(first.begin(), first.end(), theirs.begin());
    if (differs.first == first.end()) continue;
    throw ShapeError(fmt::format(
        "attention: {} must be the same on every rank of the ring, found {} on rank 0 and {} on "
        "rank {}",
        kNames[differs.first - first.begin()], *differs.first, *differs.second, rank));
  }
  return shape;
}

}  // namespace

AttentionShape AgreeOnForward(Communicator& ring, const RingAttentionOptions& options,
                              const AttentionInputs& inputs, const AttentionOutputs& outputs) {
  return Agree(ring, options, [&] {
    const AttentionShape shape = ShapeOf(ring, options, inputs);
    const int64_t q_len = QueryCount(ring, options);
    CheckQueryRows("output", outputs.output, shape, q_len, shape.value_dim);
    CheckLogSumExp("logsumexp", outputs.logsumexp, shape, q_len);
    return shape;
  });
}

AttentionShape AgreeOnBackward(Communicator& ring, const RingAttentionOptions& options,
                               const AttentionInputs& inputs, const AttentionSaved& saved,
                               const AttentionGradients& gradients) {
  return Agree(ring, options, [&] {
    const AttentionShape shape = ShapeOf(ring, options, inputs);
    const int64_t q_len = QueryCount(ring, options);
    const int64_t kv_len = KeyCount(ring, options);
    CheckSaved(saved, shape, q_len);
    CheckQueryRows("query gradient", gradients.query, shape, q_len, shape.head_dim);
    CheckKeyRows("key gradient", gradients.key, shape, kv_len, shape.head_dim);
    CheckKeyRows("value gradient", gradients.value, shape, kv_len, shape.value_dim);
    return shape;
  });
}

}  // namespace ringwise
