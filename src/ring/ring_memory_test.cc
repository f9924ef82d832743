#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "ring/backward_choice.h"
#include "ring/copying_communicator.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"
#include "ringwise/random.h"
#include "ringwise/ring_attention.h"

// What ring attention holds beyond the inputs and outputs of a rank, by the meter.
namespace ringwise {
namespace {

constexpr int64_t kHeadDim = 16;
constexpr int64_t kValueDim = 24;
constexpr int64_t kFewRows = 3;

struct MemoryCase {
  int64_t heads, kv_heads;
  DType dtype;
  int ring;
  int threads;
  int64_t rows;         // of a rank
  bool copies = false;  // what travels, as between processes
};

// Every row is needed on every rank, and yet few pairs are visible.
Mask Window() { return {.window_left = 300, .window_right = 300}; }

struct Peaks {
  MemoryMeter::Reading forward, backward;  // of the rank that holds the most
};

Tensor Random(MemoryMeter& meter, DType dtype, const Shape& shape, uint64_t stream) {
  Tensor tensor(meter, MemoryCategory::kActivations, dtype, shape);
  ringwise::Random random(11, stream);
  DispatchDType(dtype, [&]<class T>(T) {
    for (int64_t i = 0; i < tensor.elements(); ++i) tensor.data<T>()[i] = T(random.Normal());
  });
  return tensor;
}

void Raise(MemoryMeter::Reading& most, const MemoryMeter::Reading& reading) {
  for (int c = 0; c < kMemoryCategories; ++c) {
    most.bytes[c] = std::max(most.bytes[c], reading.bytes[c]);
  }
  most.total = std::max(most.total, reading.total);
}

Peaks Measure(const MemoryCase& c) {
  MeshOptions mesh;
  mesh.ring = c.ring;
  mesh.threads = c.threads;
  mesh.timeout_seconds = 60;
  std::vector<Peaks> by_rank(c.ring);
  Launch(mesh, [&](Rank& rank) {
    MemoryMeter apart;
    const auto make = [&](int64_t heads, int64_t dim) {
      return Random(apart, c.dtype, {1, c.rows, heads, dim}, rank.world.rank());
    };
    RingAttentionOptions options;
    options.mask = Window();
    for (int r = 0; r < c.ring; ++r) {
      options.query_positions.push_back(
          ShardPositions(Layout::kStriped, c.rows * c.ring, c.ring, r));
    }
    options.key_positions = options.query_positions;
    Tensor query = make(c.heads, kHeadDim);
    Tensor key = make(c.kv_heads, kHeadDim);
    Tensor value = make(c.kv_heads, kValueDim);
    Tensor output = make(c.heads, kValueDim);
    Tensor logsumexp(apart, MemoryCategory::kActivations, DType::kF32, {1, c.heads, c.rows});
    const AttentionInputs inputs{query.view(), key.view(), value.view()};
    Peaks& peaks = by_rank[rank.ring.rank()];
    CopyingCommunicator copying(rank.ring);
    Communicator& ring = c.copies ? copying : rank.ring;
    MemoryMeter& meter = rank.context.meter;
    meter.ResetPeak();
    RingAttentionForward(rank.context, ring, options, inputs, {output.view(), logsumexp.view()});
    peaks.forward = meter.peak();
    EXPECT_EQ(meter.current().total, 0);
    Tensor output_gradient = make(c.heads, kValueDim);
    Tensor dq = make(c.heads, kHeadDim);
    Tensor dk = make(c.kv_heads, kHeadDim);
    Tensor dv = make(c.kv_heads, kValueDim);
    meter.ResetPeak();
    RingAttentionBackward(rank.context, ring, options, inputs,
                          {output.view(), logsumexp.view(), output_gradient.view()},
                          {dq.view(), dk.view(), dv.view()});
    peaks.backward = meter.peak();
    EXPECT_EQ(meter.current().total, 0);
  });
  Peaks most;
  for (const Peaks& peaks : by_rank) {
    Raise(most.forward, peaks.forward);
    Raise(most.backward, peaks.backward);
  }
  return most;
}

int64_t Slack(int64_t bytes) { return bytes + bytes / 1000 + 4096; }

// At most two key/value shards, alone or as threads one, packed copies counted; in backward also
// their gradients, and dq in f32. docs/ring_attention.md says what is held beyond that: a few f32 a
// row and head, in forward of a ring alone, and in bf16 the output's state there and, where keys
// travel, half a shard's gradient.
TEST(RingMemory, IsTwoShardsAndTheirGradients) {
  for (const auto& [heads, kv_heads] : {std::pair{2, 2}, std::pair{4, 1}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const auto& [ring, copies] : {std::pair{1, false}, {3, true}, {3, false}}) {
        const MemoryCase c{heads, kv_heads, dtype, ring, 1, 4 * kBackwardCut.least_rows, copies};
        SCOPED_TRACE(std::to_string(heads) + " heads, " + std::to_string(kv_heads) + " kv_heads, " +
                     std::string(Name(dtype)) + ", ring of " + std::to_string(ring) +
                     (copies ? " that copies" : ""));
        const auto element = static_cast<int64_t>(SizeOf(dtype));
        const bool rounds = dtype != DType::kF32;
        const int64_t elements = c.rows * kv_heads * (kHeadDim + kValueDim);
        const int64_t shard = elements * element;
        const int64_t gradient = elements * 4;
        const int64_t head_rows = c.rows * heads;
        const Peaks peaks = Measure(c);

        if (ring == 1) {  // rows are completed as they are computed
          EXPECT_LE(peaks.forward[MemoryCategory::kRingBuffers], Slack(shard));
          EXPECT_EQ(peaks.forward[MemoryCategory::kActivations], 0);
        } else {
          EXPECT_LE(peaks.forward[MemoryCategory::kRingBuffers], Slack((copies ? 2 : 1) * shard));
          EXPECT_LE(peaks.forward[MemoryCategory::kActivations],
                    Slack(head_rows * (12 + (rounds ? kValueDim * 4 : 0))));
        }

        // dq, logsumexp and delta.
        EXPECT_LE(peaks.backward[MemoryCategory::kActivations],
                  Slack(head_rows * (kHeadDim * 4 + 8)));
        const int64_t held = peaks.backward[MemoryCategory::kRingBuffers];
        if (ring == 1) {  // nothing is packed; sums are in the tensors themselves
          EXPECT_LE(held, Slack(rounds ? gradient : 0));
        } else if (heads == kv_heads) {  // queries travel, two statistics with them
          EXPECT_LE(held, copies ? Slack(2 * shard + 2 * head_rows * 8 + 2 * gradient)
                                 : Slack(shard + head_rows * 8 + (rounds ? 2 : 1) * gradient));
        } else {
          EXPECT_LE(held, copies ? Slack(2 * shard + 2 * gradient + (rounds ? gradient / 2 : 0))
                                 : Slack(shard + gradient + (rounds ? gradient : 0)));
        }
      }
    }
  }
}

// Of many kv_heads a ring of one packs 8 MiB at a time.
TEST(RingMemory, AloneFewHeadsArePacked) {
  const MemoryCase c{12, 12, DType::kF32, 1, 1, 4 * kBackwardCut.least_rows};
  const int64_t shard = c.rows * c.kv_heads * (kHeadDim + kValueDim) * 4;
  constexpr int64_t kPacked = 8 << 20;
  ASSERT_GT(shard, Slack(kPacked));
  const Peaks peaks = Measure(c);
  EXPECT_LE(peaks.forward[MemoryCategory::kRingBuffers], kPacked);
  EXPECT_EQ(peaks.forward[MemoryCategory::kActivations], 0);
}

// The peak of forward of a few queries over keys at these positions, alone.
MemoryMeter::Reading MeasureFewQueries(const Positions& keys) {
  MemoryMeter::Reading peak;
  Launch({.threads = 1}, [&](Rank& rank) {
    MemoryMeter apart;
    const auto make = [&](int64_t rows, int64_t heads, int64_t dim) {
      return Random(apart, DType::kF32, {1, rows, heads, dim}, 0);
    };
    RingAttentionOptions options;
    options.query_positions = {{{0, kFewRows, 1}}};
    options.key_positions = {keys};
    const Tensor query = make(kFewRows, 2, kHeadDim);
    const Tensor key = make(Count(keys), 1, kHeadDim);
    const Tensor value = make(Count(keys), 1, kValueDim);
    Tensor output = make(kFewRows, 2, kValueDim);
    Tensor logsumexp(apart, MemoryCategory::kActivations, DType::kF32, {1, 2, kFewRows});
    rank.context.meter.ResetPeak();
    RingAttentionForward(rank.context, rank.ring, options, {query.view(), key.view(), value.view()},
                         {output.view(), logsumexp.view()});
    peak = rank.context.meter.peak();
  });
  return peak;
}

// Nothing is packed, and there is a partial result for every 2048 keys; keys that stand each by
// itself are packed and need no more than fewer of them.
TEST(RingMemory, FewQueriesHoldPartialResults) {
  constexpr int64_t kKeys = 20480;
  const MemoryMeter::Reading together = MeasureFewQueries({{0, kKeys, 1}});
  EXPECT_EQ(together[MemoryCategory::kRingBuffers], 0);
  EXPECT_EQ(together[MemoryCategory::kActivations], 0);
  const int64_t partial = 2 * kFewRows * (kHeadDim + kValueDim + 2) * 4;
  const int64_t lines = 4 * 64;  // each of the four arrays begins a cache line
  EXPECT_LE(together[MemoryCategory::kWorkspace], kKeys / 2048 * (partial + lines));
  Positions apart;
  for (int64_t key = 0; key < kKeys; ++key) apart.push_back({3 * key, 1, 1});
  EXPECT_EQ(MeasureFewQueries(apart)[MemoryCategory::kWorkspace],
            MeasureFewQueries({{0, 1024, 1}})[MemoryCategory::kWorkspace]);
}

// One workspace a thread, however long the sequence; where threads share the keys of a head, each
// also dq of the heads it is at.
TEST(RingMemory, WorkspaceIsAThreads) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto workspace = [&](int threads, int64_t rows) {
      const Peaks peaks = Measure({2, 2, dtype, 2, threads, rows});
      return std::pair{peaks.forward[MemoryCategory::kWorkspace],
                       peaks.backward[MemoryCategory::kWorkspace]};
    };
    const auto one = workspace(1, 3072);
    EXPECT_EQ(workspace(1, 6144), one);
    const auto two = workspace(2, 3072);
    EXPECT_LE(two.first, 2 * one.first);
    EXPECT_LE(two.second, 2 * one.second + 2 * 3072 * kHeadDim * 4);
  }
}

}  // namespace
}  // namespace ringwise
