#include "ringwise/ring_attention.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "attention/attention_oracle.h"
#include "attention/shard_attention_reference.h"
#include "ring/copying_communicator.h"
#include "ring/ring_case_run.h"
#include "ring/ring_plan.h"
#include "ring/ring_schedule.h"
#include "ring/row_shards.h"

namespace ringwise {
namespace {

constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kStriped, Layout::kZigzag};

MeshOptions Mesh(int ring, int threads = 1) {
  MeshOptions mesh;
  mesh.ring = ring;
  mesh.threads = threads;
  mesh.timeout_seconds = 60;
  return mesh;
}

// Lengths, heads and masks that catch mistakes in the schedule; `body` gets each on each ring.
template <class Body>
void ForEachSmallCase(const Body& body) {
  struct Lengths {
    int64_t q_len, kv_len, query_offset;
  };
  constexpr Lengths kLengths[] = {{0, 0, 0}, {1, 1, 0},  {2, 2, 0}, {5, 5, 0},  {17, 17, 0},
                                  {3, 9, 6}, {5, 0, -5}, {0, 5, 5}, {9, 4, -5}, {8, 20, 3}};
  for (const Lengths& lengths : kLengths) {
    for (const bool causal : {false, true}) {
      RingCase c;
      c.q_len = lengths.q_len;
      c.kv_len = lengths.kv_len;
      c.query_offset = lengths.query_offset;
      c.causal = causal;
      c.batch = 2;
      c.heads = 6;
      c.kv_heads = causal ? 2 : 3;
      c.head_dim = 3;
      const RingCaseData data(c);
      for (int ring = 1; ring <= 8; ++ring) {
        for (const Layout layout : kLayouts) {
          c.ring = ring;
          c.layout = layout;
          body(c, data);
        }
      }
    }
  }
}

// The schedule without rounding: the double reference on a ring against the oracle.
TEST(RingSchedule, InDoubleARingIsTheWhole) {
  ForEachSmallCase([](const RingCase& c, const RingCaseData&) {
    SCOPED_TRACE(c.ToString());
    const RingCaseData data(c);
    const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
    AttentionResults results;
    Launch(Mesh(c.ring), [&](Rank& rank) {
      AttentionResults mine = RunReferenceCaseOn(rank.context, rank.ring, c, data);
      if (rank.ring.rank() == 0) results = std::move(mine);
    });
    EXPECT_EQ(CheckAttention(results, oracle, oracle, {1e-13, 1e-13}), "");
    EXPECT_EQ(results.dv.size(), oracle.dv.size());
  });
}

// Positions that no layout makes: gaps between users, blocks that only others use, and blocks that
// nobody uses.
TEST(RingSchedule, AnyPositions) {
  const std::vector<Positions> queries = {{{4, 2, 1}}, {}, {{0, 3, 2}}, {{20, 1, 1}}, {{-9, 2, 1}}};
  const std::vector<std::vector<Positions>> keys = {
      {{{5, 3, 1}}, {{0, 2, 1}}, {}, {{18, 3, 1}}, {{3, 1, 1}, {30, 2, 1}}},
      {{{21, 4, 1}}, {{50, 2, 1}}, {{4, 1, 1}}, {{-20, 3, 1}}, {{-9, 1, 1}}},
      {{{20, 1, 1}}, {{20, 1, 1}}, {{20, 1, 1}}, {{19, 1, 1}}, {{18, 2, 1}}},
  };
  const AttentionShape shape{1, 2, 1, 3, 3, DType::kF32};
  for (const std::vector<Positions>& key_positions : keys) {
    // The whole: all ranks' rows one after another.
    Positions all_queries, all_keys;
    for (const Positions& p : queries) all_queries.insert(all_queries.end(), p.begin(), p.end());
    for (const Positions& p : key_positions) all_keys.insert(all_keys.end(), p.begin(), p.end());
    RingCase c;
    c.head_dim = 3;
    c.q_len = Count(all_queries);
    c.kv_len = Count(all_keys);
    const RingCaseData data(c);
    AttentionCase whole = data.attention_case();
    whole.query_positions = all_queries;
    whole.key_positions = all_keys;
    const AttentionOracle oracle = ComputeAttentionOracle(whole);
    Launch(Mesh(5), [&](Rank& rank) {
      const int r = rank.ring.rank();
      const auto rows = [&](const ConstTensorView& view, const std::vector<Positions>& positions) {
        int64_t begin = 0;
        for (int other = 0; other < r; ++other) begin += Count(positions[other]);
        return view.Slice(1, begin, Count(positions[r]));
      };
      const auto expected = [&](const std::vector<double>& values,
                                const std::vector<Positions>& positions, int64_t row_elements) {
        int64_t begin = 0;
        for (int other = 0; other < r; ++other) begin += Count(positions[other]) * row_elements;
        return std::vector<double>(values.begin() + begin,
                                   values.begin() + begin + Count(positions[r]) * row_elements);
      };
      const ConstTensorView key = rows(whole.key, key_positions);
      const ConstTensorView value = rows(whole.value, key_positions);
      const ConstTensorView query = rows(whole.query, queries);
      const RingCall call{whole.options.mask, 1, 1, queries, key_positions};
      constexpr BlockCut kCut{.unit = 2, .parts = 2, .least_rows = 1};
      ReferenceShardForward forward(shape, whole.options, query, queries[r]);
      const RingPlan plan(
          call, Travelling::kKeys,
          [&](int64_t n) {
            return TravelBytes{forward.BlockBytes(n), 0};
          },
          kCut);
      RunRingForward(rank.context, rank.ring, plan, key, value, key_positions[r], forward);
      EXPECT_LE(LargestError(forward.Output(), expected(oracle.output, queries, 6)), 1e-13);
      EXPECT_EQ(rank.ring.bytes_sent(), plan.BytesSent(r));

      for (const Travelling travelling : {Travelling::kKeys, Travelling::kQueries}) {
        ReferenceShardBackward backward({shape,
                                         whole.options,
                                         {query, key, value},
                                         rows(*whole.output_gradient, queries),
                                         {},
                                         forward.Output(),
                                         forward.LogSumExp(),
                                         queries[r],
                                         key_positions[r]},
                                        travelling);
        const RingPlan back(
            call, travelling, [&](int64_t n) { return backward.BytesOf(n); }, kCut);
        const int64_t sent = rank.ring.bytes_sent();
        RunRingBackward(rank.context, rank.ring, back, backward);
        EXPECT_LE(LargestError(backward.QueryGradient(), expected(oracle.dq, queries, 6)), 1e-12);
        EXPECT_LE(LargestError(backward.KeyGradient(), expected(oracle.dk, key_positions, 3)),
                  1e-12);
        EXPECT_LE(LargestError(backward.ValueGradient(), expected(oracle.dv, key_positions, 3)),
                  1e-12);
        EXPECT_EQ(rank.ring.bytes_sent() - sent, back.BytesSent(r));
      }
    });
  }
}

// Which way rows go, how far, and nothing further.
TEST(RingPlan, CausalKeysGoUpAndQueriesDown) {
  const auto one = [](int64_t) { return TravelBytes{1, 1}; };
  for (const int ranks : {1, 2, 5, 8}) {
    std::vector<Positions> positions;
    for (int rank = 0; rank < ranks; ++rank) {
      positions.push_back(ShardPositions(Layout::kContiguous, 40, ranks, rank));
    }
    const Mask causal{.causal = true};
    const Mask everything;
    for (const Travelling travelling : {Travelling::kKeys, Travelling::kQueries}) {
      const int direction = travelling == Travelling::kKeys ? 1 : -1;
      const RingPlan plan({causal, 1, 1, positions, positions}, travelling, one);
      EXPECT_EQ(std::ssize(plan.routes()), ranks - 1);
      for (const RingPlan::Route& route : plan.routes()) {
        EXPECT_EQ(route.direction, direction);
        EXPECT_EQ(route.first_use, 1);
        EXPECT_EQ(plan.RankAt(route, route.last_use), direction == 1 ? ranks - 1 : 0);
        EXPECT_EQ(route.last_use, direction == 1 ? ranks - 1 - route.origin : route.origin);
      }
      // As many hops of the gradient: one less along with its block, and one home.
      EXPECT_EQ(plan.TotalBytes(), ranks * (ranks - 1));
      // All see all: every block goes all the way round, and no further.
      const RingPlan full({everything, 1, 1, positions, positions}, travelling, one);
      for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(full.BytesSent(rank), 2 * (ranks - 1));
    }
  }
}

// A window that looks both ways sends to both neighbours.
TEST(RingPlan, GoesBothWays) {
  constexpr int kRanks = 6;
  std::vector<Positions> positions;
  for (int rank = 0; rank < kRanks; ++rank) {
    positions.push_back(ShardPositions(Layout::kContiguous, 60, kRanks, rank));
  }
  const Mask window{.window_left = 3, .window_right = 2};
  const RingPlan plan({window, 1, 1, positions, positions}, Travelling::kKeys,
                      [](int64_t rows) {
                        return TravelBytes{rows, 0};
                      },
                      {.unit = 1, .least_rows = 1});
  EXPECT_EQ(plan.steps(), 1);
  EXPECT_EQ(plan.BytesSent(0), 3);  // the next rank's queries see 3 keys back
  EXPECT_EQ(plan.BytesSent(1), 5);
  EXPECT_EQ(plan.BytesSent(kRanks - 1), 2);
  EXPECT_EQ(plan.RowsAtHome(1).size(), 1u);
  EXPECT_EQ(plan.RowsAtHome(1)[0].begin, 2);
  EXPECT_EQ(plan.RowsAtHome(1)[0].end, 7);
}

// The tiled kernels on every ring against float64, and against the ring of one on the same scales.
TEST(RingAttention, F32IsWithinTheBoundsOnEveryRing) {
  WholeResults alone;
  AttentionOracle oracle;
  ForEachSmallCase([&](const RingCase& c, const RingCaseData&) {
    SCOPED_TRACE(c.ToString());
    const RingCaseData data(c);
    const WholeResults results = RunCase(c, data);
    if (c.ring == 1 && c.layout == kLayouts[0]) {
      alone = results;
      oracle = ComputeAttentionOracle(data.attention_case());
    }
    EXPECT_EQ(CheckAttention(ToResults(results), oracle, oracle, {}), "");
    EXPECT_EQ(CheckAttention(ToResults(results), ToResults(alone), oracle, {1e-6, 1e-6}), "");
  });
}

RingCase LargerCase() {
  RingCase c;
  c.batch = 1;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 64;
  c.q_len = 301;
  c.kv_len = 301;
  return c;
}

TEST(RingAttention, LongerSequencesAndThreads) {
  for (const bool causal : {false, true}) {
    RingCase c = LargerCase();
    c.causal = causal;
    const AttentionOracle oracle = ComputeAttentionOracle(RingCaseData(c).attention_case());
    const AttentionResults alone = ToResults(RunCase(c, RingCaseData(c)));
    for (const int ring : {1, 2, 3}) {
      for (const Layout layout : kLayouts) {
        c.ring = ring;
        c.layout = layout;
        c.threads = 1 + ring % 2;
        SCOPED_TRACE(c.ToString());
        const RingCaseData data(c);
        const WholeResults results = RunCase(c, data);
        EXPECT_EQ(CheckAttention(ToResults(results), oracle, oracle, {}), "");
        EXPECT_EQ(CheckAttention(ToResults(results), alone, oracle, {1e-6, 1e-6}), "");
        EXPECT_TRUE(SameBits(RunCase(c, data), results)) << "not the same bits twice";
      }
    }
  }
}

// What other ranks read in place, and what they are sent copies of.
TEST(RingAttention, CopyingRingsGiveTheSameBits) {
  ForEachSmallCase([](const RingCase& c, const RingCaseData&) {
    SCOPED_TRACE(c.ToString());
    const RingCaseData data(c);
    WholeResults shared, copied;
    AttentionResults in_double;
    Launch(Mesh(c.ring), [&](Rank& rank) {
      CopyingCommunicator copying(rank.ring);
      WholeResults of_shared = RunCaseOn(rank.context, rank.ring, data);
      WholeResults of_copied = RunCaseOn(rank.context, copying, data);
      AttentionResults reference = RunReferenceCaseOn(rank.context, copying, c, data);
      if (rank.ring.rank() != 0) return;
      shared = std::move(of_shared);
      copied = std::move(of_copied);
      in_double = std::move(reference);
    });
    EXPECT_TRUE(SameBits(copied, shared));
    const AttentionOracle oracle = ComputeAttentionOracle(data.attention_case());
    EXPECT_EQ(CheckAttention(in_double, oracle, oracle, {1e-13, 1e-13}), "");
  });
}

// Against the error of the plain bf16 formula, on a case large enough for an RMS to mean something.
TEST(RingAttention, Bf16IsAsExactAsThePlainFormula) {
  RingCase c = LargerCase();
  c.dtype = DType::kBF16;
  const RingCaseData whole(c);
  const AttentionOracle oracle = ComputeAttentionOracle(whole.attention_case());
  const AttentionOracle plain = ComputePlainBf16Attention(whole.attention_case());
  for (const int ring : {1, 3}) {
    for (const Layout layout : kLayouts) {
      c.ring = ring;
      c.layout = layout;
      SCOPED_TRACE(c.ToString());
      const AttentionResults results = ToResults(RunCase(c, RingCaseData(c)));
      const std::pair<const char*, std::vector<double> AttentionResults::*> tensors[] = {
          {"output", &AttentionResults::output},
          {"dq", &AttentionResults::dq},
          {"dk", &AttentionResults::dk},
          {"dv", &AttentionResults::dv}};
      const AttentionResults exact = oracle;
      const AttentionResults yardstick = plain;
      for (const auto& [name, tensor] : tensors) {
        EXPECT_LE(RmsError(results.*tensor, exact.*tensor),
                  1.1 * RmsError(yardstick.*tensor, exact.*tensor))
            << name;
        EXPECT_LE(LargestError(results.*tensor, exact.*tensor),
                  2 * LargestError(yardstick.*tensor, exact.*tensor))
            << name;
      }
      EXPECT_LE(LargestError(results.logsumexp, exact.logsumexp), 1e-3);
    }
  }
}

TEST(RingAttention, RowsThatSeeNothing) {
  RingCase c;
  c.q_len = 6;
  c.kv_len = 4;
  c.query_offset = -3;  // queries 0, 1 and 2 come before every key
  for (int ring = 1; ring <= 3; ++ring) {
    c.ring = ring;
    const WholeResults results = RunCase(c, RingCaseData(c));
    for (int64_t i = 0; i < 3 * c.heads * c.head_dim; ++i) {
      EXPECT_EQ(results.output[i], 0.0f);
      EXPECT_EQ(results.dq[i], 0.0f);
    }
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(results.logsumexp[i], -std::numeric_limits<float>::infinity());
    }
  }
}

// A rank that throws while its neighbours compute and wait.
TEST(RingAttention, ARankThatThrowsEndsAll) {
  RingCase c;
  c.ring = 4;
  const RingCaseData data(c);
  for (int failing = 0; failing < 4; ++failing) {
    std::atomic<int> peers{0};
    try {
      Launch(Mesh(4), [&](Rank& rank) {
        for (int repeat = 0; repeat < 3; ++repeat) {
          if (repeat == 2 && rank.ring.rank() == failing) throw FileError("disk full");
          try {
            AttendWhole(rank.context, rank.ring, data.whole());
          } catch (const PeerError&) {
            ++peers;
            throw;
          }
        }
      });
      ADD_FAILURE();
    } catch (const FileError& error) {
      EXPECT_STREQ(error.what(), "disk full");
    }
    EXPECT_EQ(peers, 3);
  }
}

}  // namespace
}  // namespace ringwise
