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
constexpr std::array<const char*, 9> kNames = {"batch",    "heads",           "kv_heads",
                                               "head_dim", "dtype",           "scale (its bits)",
                                               "causal",   "query_positions", "key_positions"};
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

AttentionShape CheckHere(const Communicator& ring, const RingAttentionOptions& options,
                         std::initializer_list<NamedView> inputs,
                         std::initializer_list<NamedRows> others, ConstTensorView logsumexp) {
  for (const auto* positions : {&options.query_positions, &options.key_positions}) {
    if (static_cast<int>(positions->size()) != ring.size()) {
      throw ShapeError(fmt::format("attention: positions of {} ranks are needed, found {}",
                                   ring.size(), positions->size()));
    }
  }
  for (const NamedView& input : inputs) {
    if (input.view.shape.rank() != 4) {
      throw ShapeError(
          fmt::format("attention: {} must be [batch, length, heads, head_dim], found {}",
                      input.name, input.view.shape.ToString()));
    }
  }
  const ConstTensorView& query = inputs.begin()[0].view;
  const ConstTensorView& key = inputs.begin()[1].view;
  const AttentionShape shape{query.shape[0], query.shape[2], key.shape[2], query.shape[3],
                             query.dtype};
  CheckAttentionShape(shape);
  const int64_t q_len = Count(options.query_positions[ring.rank()]);
  const int64_t kv_len = Count(options.key_positions[ring.rank()]);
  for (const NamedView& input : inputs) {
    const bool is_query = &input == inputs.begin();
    CheckRows(input.name, input.view, shape, is_query ? q_len : kv_len,
              is_query ? shape.heads : shape.kv_heads);
    CheckDType(input.name, input.view, shape.dtype);
  }
  for (const NamedRows& other : others) {
    const bool is_query = other.rows == RowsOf::kQuery;
    CheckRows(other.name, other.view, shape, is_query ? q_len : kv_len,
              is_query ? shape.heads : shape.kv_heads);
  }
  CheckLogSumExp(logsumexp, shape, q_len);
  return shape;
}

}  // namespace

AttentionShape AgreeOnShapes(Communicator& ring, const RingAttentionOptions& options,
                             std::initializer_list<NamedView> inputs,
                             std::initializer_list<NamedRows> others, ConstTensorView logsumexp) {
  if (ring.size() == 1) return CheckHere(ring, options, inputs, others, logsumexp);
  AttentionShape shape;
  std::string problem;
  try {
    shape = CheckHere(ring, options, inputs, others, logsumexp);
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

}  // namespace ringwise
