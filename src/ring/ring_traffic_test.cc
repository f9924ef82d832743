#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "attention/attention_oracle.h"
#include "attention/shard_attention.h"
#include "ring/least_tiles.h"
#include "ring/ring_plan.h"
#include "ring/row_shards.h"
#include "ringwise/launch.h"
#include "ringwise/random.h"
#include "ringwise/whole_attention.h"

// What travels under every kind of mask, counted pair by pair from the mask's definition; and that
// layouts of queries and keys, their lengths and the ring's size are independent.
namespace ringwise {
namespace {

constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kStriped, Layout::kZigzag};
constexpr int64_t kBatch = 2;
constexpr int64_t kHeads = 4;
constexpr int64_t kHeadDim = 6;
constexpr int64_t kValueDim = 5;

struct MaskedCase {
  const char* name;
  Mask mask;
  int64_t q_len, k_len, query_offset;
};

std::shared_ptr<const SegmentMap> Documents(int64_t q_len, int64_t k_len, int64_t offset) {
  std::vector<Segments> queries, keys;
  for (int64_t batch = 0; batch < kBatch; ++batch) {
    const auto ids = [&](int64_t length, int64_t first) {
      std::vector<int32_t> list;
      for (int64_t i = 0; i < length; ++i) {
        const int64_t document = (first + i) / (9 + 4 * batch);
        list.push_back(document == 2 ? -1 : static_cast<int32_t>(document));
      }
      return ToSegments(list, first);
    };
    queries.push_back(ids(q_len, offset));
    keys.push_back(ids(k_len, 0));
  }
  return std::make_shared<SegmentMap>(queries, keys);
}

std::vector<MaskedCase> Cases() {
  const auto slices = std::make_shared<std::vector<MaskSlice>>(std::vector<MaskSlice>{
      {{}, 0, 12, 20, 40, SliceKind::kCausal}, {2, 30, 44, 0, 5, SliceKind::kFull}});
  return {
      {"everything", {}, 30, 30, 0},
      {"causal", {.causal = true}, 41, 41, 0},
      {"window", {.causal = true, .window_left = 4}, 47, 47, 0},
      {"window to the right", {.window_left = 2, .window_right = 3}, 47, 47, 0},
      {"causal blocks", {.causal_block = 7}, 47, 47, 0},
      {"documents", {.causal = true, .segments = Documents(47, 47, 0)}, 47, 47, 0},
      {"slices", {.slices = slices}, 44, 44, 0},
      {"cross attention", {}, 13, 50, 37},
      {"cross attention with a window", {.window_left = 3, .window_right = 3}, 13, 50, 20},
      {"more queries than keys", {.causal = true}, 50, 13, -37},
      {"longer than the ring", {.causal = true}, 2, 3, 1},
      {"no keys", {}, 3, 0, 0},
      {"no queries", {}, 0, 3, 3},
  };
}

// A call's tensors: normal random numbers.
class Call {
 public:
  explicit Call(const MaskedCase& c, int64_t kv_heads = 2) {
    whole_.mask = c.mask;
    whole_.query_offset = c.query_offset;
    whole_.inputs = {Draw({kBatch, c.q_len, kHeads, kHeadDim}),
                     Draw({kBatch, c.k_len, kv_heads, kHeadDim}),
                     Draw({kBatch, c.k_len, kv_heads, kValueDim})};
    whole_.output_gradient = Draw({kBatch, c.q_len, kHeads, kValueDim});
  }

  WholeAttention whole(Layout layout, Layout key_layout) const {
    WholeAttention whole = whole_;
    whole.layout = layout;
    whole.key_layout = key_layout;
    return whole;
  }

  AttentionOracle Oracle() const {
    AttentionCase whole;
    whole.options = whole_;
    whole.query_positions = {{whole_.query_offset, whole_.inputs.query.shape[1], 1}};
    whole.key_positions = {{0, whole_.inputs.key.shape[1], 1}};
    whole.query = whole_.inputs.query;
    whole.key = whole_.inputs.key;
    whole.value = whole_.inputs.value;
    whole.output_gradient = whole_.output_gradient;
    return ComputeAttentionOracle(whole);
  }

 private:
  ConstTensorView Draw(const Shape& shape) {
    tensors_.emplace_back(meter_, MemoryCategory::kWorkspace, DType::kF32, shape);
    Random random(20240917, tensors_.size());
    for (int64_t i = 0; i < tensors_.back().elements(); ++i) {
      tensors_.back().data<float>()[i] = random.Normal();
    }
    return std::as_const(tensors_.back()).view();
  }

  MemoryMeter meter_;
  std::vector<Tensor> tensors_;
  WholeAttention whole_;
};

bool SeesAny(const Mask& mask, const PositionRun& queries, const PositionRun& keys) {
  for (int64_t plane = 0; plane < kBatch * kHeads; ++plane) {
    for (int64_t i = 0; i < queries.count; ++i) {
      for (int64_t j = 0; j < keys.count; ++j) {
        if (Sees({mask, plane / kHeads, plane % kHeads}, queries[i], keys[j])) return true;
      }
    }
  }
  return false;
}

// f32, as the formulas of ring/backward_choice.h; dq is in whole groups of 16 rows.
TravelBytes BytesOf(Travelling travelling, int64_t kv_heads, int64_t rows) {
  if (travelling == Travelling::kKeys) {
    const int64_t bytes = kBatch * kv_heads * rows * (kHeadDim + kValueDim) * 4;
    return {bytes, bytes};
  }
  const int64_t head_rows = kBatch * kHeads * rows;
  return {head_rows * ((kHeadDim + kValueDim) * 4 + 8),
          kBatch * kHeads * ((rows + 15) / 16 * 16) * kHeadDim * 4};
}

// What each rank sends of blocks that are whole runs, as shards shorter than kBlockUnit have them.
class Traffic {
 public:
  Traffic(const RingAttentionOptions& options, Travelling travelling, int64_t kv_heads,
          bool backward)
      : options_(options),
        keys_travel_(travelling == Travelling::kKeys),
        ring_(static_cast<int>(options.key_positions.size())),
        sent(ring_, 0) {
    const auto& rows = keys_travel_ ? options.key_positions : options.query_positions;
    for (int origin = 0; origin < ring_; ++origin) {
      for (const PositionRun& run : rows[origin]) {
        TravelBytes bytes = BytesOf(travelling, kv_heads, run.count);
        if (!backward) bytes.gradient = 0;
        Send(origin, Users(origin, run), bytes);
      }
    }
  }

  int64_t total() const { return std::accumulate(sent.begin(), sent.end(), int64_t{0}); }

 private:
  const RingAttentionOptions& options_;
  const bool keys_travel_;
  const int ring_;

 public:
  std::vector<int64_t> sent;  // by rank

 private:
  // How many ranks further each user of the run is.
  std::vector<int> Users(int origin, const PositionRun& run) const {
    std::vector<int> users;
    for (int offset = 1; offset < ring_; ++offset) {
      const int rank = (origin + offset) % ring_;
      const Positions& others =
          keys_travel_ ? options_.query_positions[rank] : options_.key_positions[rank];
      if (std::any_of(others.begin(), others.end(), [&](const PositionRun& other) {
            return keys_travel_ ? SeesAny(options_.mask, other, run)
                                : SeesAny(options_.mask, run, other);
          })) {
        users.push_back(offset);
      }
    }
    return users;
  }

  // Tries every reach up and down the ring that meets all users, and adds the cheapest. Of equals,
  // the longest up the ring for keys, down for queries.
  void Send(int origin, const std::vector<int>& users, const TravelBytes& bytes) {
    if (users.empty()) return;
    std::vector<int64_t> best;
    int64_t least = 0;
    for (int most = ring_ - 1; most >= 0; --most) {
      for (int least_way = 0; least_way < ring_; ++least_way) {
        const int up = keys_travel_ ? most : least_way;
        const int down = keys_travel_ ? least_way : most;
        if (std::any_of(users.begin(), users.end(),
                        [&](int user) { return user > up && ring_ - user > down; })) {
          continue;
        }
        std::vector<int64_t> each(ring_, 0);
        Walk(origin, users, 1, up, bytes, each);
        Walk(origin, users, -1, down, bytes, each);
        const int64_t cost = std::accumulate(each.begin(), each.end(), int64_t{0});
        if (!best.empty() && cost >= least) continue;
        least = cost;
        best = each;
      }
    }
    for (int rank = 0; rank < ring_; ++rank) sent[rank] += best[rank];
  }

  // The block goes `reach` ranks in one direction; its gradient from the first user to the end, and
  // home.
  void Walk(int origin, const std::vector<int>& users, int direction, int reach,
            const TravelBytes& bytes, std::vector<int64_t>& each) const {
    bool used = false;
    for (int step = 0; step <= reach; ++step) {
      const int rank = (origin + ring_ + direction * step) % ring_;
      const int offset = direction == 1 ? step : ring_ - step;
      used = used || std::find(users.begin(), users.end(), offset) != users.end();
      if (step < reach) each[rank] += bytes.block;
      if (used) each[rank] += bytes.gradient;
    }
  }
};

// Of forward and of the cheaper backward; counts which that is.
std::vector<int64_t> BytesToSend(const RingAttentionOptions& options, int64_t kv_heads,
                                 std::map<Travelling, int>& taken) {
  const Traffic forward(options, Travelling::kKeys, kv_heads, false);
  const Traffic keys(options, Travelling::kKeys, kv_heads, true);
  const Traffic queries(options, Travelling::kQueries, kv_heads, true);
  const bool keys_travel = keys.total() <= queries.total();
  if (keys.total() > 0) ++taken[keys_travel ? Travelling::kKeys : Travelling::kQueries];
  std::vector<int64_t> sent = forward.sent;
  for (size_t rank = 0; rank < sent.size(); ++rank) {
    sent[rank] += (keys_travel ? keys : queries).sent[rank];
  }
  return sent;
}

std::string Compare(const WholeResults& results, const AttentionOracle& oracle) {
  const auto widen = [](const std::vector<float>& values) {
    return std::vector<double>(values.begin(), values.end());
  };
  AttentionResults found;
  found.output = widen(results.output);
  found.logsumexp = widen(results.logsumexp);
  found.dq = widen(results.dq);
  found.dk = widen(results.dk);
  found.dv = widen(results.dv);
  return CheckAttention(found, oracle, oracle, {});
}

void CheckCall(const Call& call, const AttentionOracle& oracle, int ring, Layout layout,
               Layout key_layout, std::map<Travelling, int>& taken) {
  const WholeAttention whole = call.whole(layout, key_layout);
  MeshOptions mesh;
  mesh.ring = ring;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  std::vector<int64_t> sent(ring);
  WholeResults results;
  Launch(mesh, [&](Rank& rank) {
    const int r = rank.ring.rank();
    WholeResults mine = AttendWhole(rank.context, rank.ring, whole);
    sent[r] = rank.ring.bytes_sent();
    if (r == 0) results = std::move(mine);
  });
  EXPECT_EQ(sent, BytesToSend(OptionsFor(whole, ring), whole.inputs.key.shape[2], taken));
  EXPECT_EQ(Compare(results, oracle), "");
}

TEST(RingTraffic, IsWhatTheMaskRequiresInEveryPairOfLayouts) {
  std::map<Travelling, int> taken;
  for (const MaskedCase& c : Cases()) {
    for (const int64_t kv_heads : {int64_t{2}, kHeads}) {
      const Call call(c, kv_heads);
      const AttentionOracle oracle = call.Oracle();
      for (const int ring : {1, 2, 5}) {
        for (const Layout layout : kLayouts) {
          for (const Layout key_layout : kLayouts) {
            SCOPED_TRACE(std::string(c.name) + ", ring of " + std::to_string(ring) + ", " +
                         std::string(Name(layout)) + " queries, " + std::string(Name(key_layout)) +
                         " keys, kv_heads " + std::to_string(kv_heads));
            CheckCall(call, oracle, ring, layout, key_layout, taken);
          }
        }
      }
    }
  }
  EXPECT_GE(taken[Travelling::kKeys], 50);
  EXPECT_GE(taken[Travelling::kQueries], 50);
}

// Bytes that the busiest rank sends, and what comes out.
std::pair<int64_t, WholeResults> Attend(const Call& call, int ring, Layout layout) {
  std::vector<int64_t> sent(ring);
  WholeResults results;
  MeshOptions mesh;
  mesh.ring = ring;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  Launch(mesh, [&](Rank& rank) {
    WholeResults mine = AttendWhole(rank.context, rank.ring, call.whole(layout, layout));
    sent[rank.ring.rank()] = rank.ring.bytes_sent();
    if (rank.ring.rank() == 0) results = std::move(mine);
  });
  return {*std::max_element(sent.begin(), sent.end()), std::move(results)};
}

int64_t MostSent(int64_t length, int ring, const Mask& mask) {
  return Attend(Call({"", mask, length, length, 0}), ring, Layout::kContiguous).first;
}

// Ranks are added as the sequence grows: with a window a rank's neighbours stay the same few.
TEST(RingTraffic, OfAWindowDoesNotGrowWithTheRing) {
  for (const Mask& window :
       {Mask{.causal = true, .window_left = 10}, Mask{.window_left = 3, .window_right = 10}}) {
    const int64_t least = MostSent(40, 5, window);
    EXPECT_GT(least, 0);
    for (const int ring : {6, 9}) EXPECT_EQ(MostSent(8 * ring, ring, window), least) << ring;
  }
  EXPECT_GT(MostSent(72, 9, {.causal = true}),
            2 * MostSent(72, 9, {.causal = true, .window_left = 10}));
}

// Parts of a shard that other ranks need less far than others, each as far as it is needed: the
// late part of a zigzag's shard is seen by no rank that comes after.
TEST(RingTraffic, EachPartGoesAsFarAsItIsNeeded) {
  constexpr int kRing = 4;
  const auto sent = [](Layout layout, const Mask& mask) {
    const Call call({"", mask, 64, 64, 0}, kHeads);
    const Traffic traffic(OptionsFor(call.whole(layout, layout), kRing), Travelling::kKeys, kHeads,
                          false);
    return traffic.total();
  };
  const int64_t row = BytesOf(Travelling::kKeys, kHeads, 1).block;
  EXPECT_EQ(sent(Layout::kContiguous, {}), 64 * row * (kRing - 1));
  EXPECT_EQ(sent(Layout::kContiguous, {.causal = true}), 64 * row * (kRing - 1) / 2);
  EXPECT_EQ(sent(Layout::kStriped, {.causal = true}), 64 * row * (kRing - 1));
  EXPECT_EQ(sent(Layout::kZigzag, {.causal = true}), 64 * row * (kRing - 1) * 3 / 4);
}

// And as the shards grow: only the end of a shard travels, in whole units of rows.
TEST(RingTraffic, OfAWindowDoesNotGrowWithTheSequence) {
  for (const Mask& window :
       {Mask{.causal = true, .window_left = 100}, Mask{.window_left = 0, .window_right = 100}}) {
    const int64_t least = MostSent(3 * kBlockUnit, 3, window);
    EXPECT_GT(least, 0);
    for (const int64_t units : {2, 4}) {
      EXPECT_EQ(MostSent(3 * units * kBlockUnit, 3, window), least) << units;
    }
  }
}

// Keys that stay at home before, after and on both sides of those that travel.
TEST(RingTraffic, KeysThatStayAtHomeAreAttendedTo) {
  const auto slices = std::make_shared<std::vector<MaskSlice>>(std::vector<MaskSlice>{
      {{}, 1300, 1400, 400, 500}, {1, 0, 900, 300, 1300, SliceKind::kInverseCausal}});
  const MaskedCase cases[] = {
      {"at the end", {.causal = true, .window_left = 100}, 1000, 1000, 0},
      {"at the begin", {.window_left = 3, .window_right = 50}, 1000, 990, 10},
      {"in the middle", {.slices = slices}, 2400, 2400, 0},
      {"documents", {.causal = true, .segments = Documents(1000, 1000, 0)}, 1000, 1000, 0},
  };
  for (const MaskedCase& c : cases) {
    const Call call(c);
    const AttentionOracle oracle = call.Oracle();
    for (const Layout layout : kLayouts) {
      SCOPED_TRACE(std::string(c.name) + ", " + std::string(Name(layout)));
      EXPECT_EQ(Compare(Attend(call, 2, layout).second, oracle), "");
    }
  }
}

// However the runs of a shard and the stretch of it that travels lie to multiples of a tile.
TEST(RingTraffic, NoMoreTilesAreComputedThanNeedBe) {
  for (const int64_t length : {1000, 2048}) {
    const MaskedCase cases[] = {
        {"causal", {.causal = true}, length, length, 0},
        {"window", {.causal = true, .window_left = 300}, length, length, 0},
        {"documents",
         {.causal = true, .segments = Documents(length, length, 0)},
         length,
         length,
         0},
    };
    for (const MaskedCase& c : cases) {
      const Call call(c);
      for (const int ring : {2, 3}) {
        for (const Layout layout : kLayouts) {
          SCOPED_TRACE(std::string(c.name) + " of " + std::to_string(length) + ", ring of " +
                       std::to_string(ring) + ", " + std::string(Name(layout)));
          const RingAttentionOptions options = OptionsFor(call.whole(layout, layout), ring);
          const WholeResults results = Attend(call, ring, layout).second;
          for (const AttentionStats& stats : {results.forward, results.backward}) {
            EXPECT_LE(static_cast<double>(stats.tiles),
                      1.05 * static_cast<double>(LeastTiles(
                                 c.mask, kBatch, kHeads, options.query_positions,
                                 options.key_positions, stats.tile_queries, stats.tile_keys)));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace ringwise
