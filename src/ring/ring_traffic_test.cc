#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
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
constexpr int64_t kKvHeads = 2;

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
  explicit Call(const MaskedCase& c) {
    whole_.mask = c.mask;
    whole_.query_offset = c.query_offset;
    whole_.inputs = {Draw({kBatch, c.q_len, kHeads, 6}), Draw({kBatch, c.k_len, kKvHeads, 6}),
                     Draw({kBatch, c.k_len, kKvHeads, 5})};
    whole_.output_gradient = Draw({kBatch, c.q_len, kHeads, 5});
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

bool SeesAny(const Mask& mask, const Positions& queries, const Positions& keys) {
  for (int64_t batch = 0; batch < kBatch; ++batch) {
    for (int64_t head = 0; head < kHeads; ++head) {
      for (int64_t i = 0; i < Count(queries); ++i) {
        for (int64_t j = 0; j < Count(keys); ++j) {
          if (Sees({mask, batch, head}, At(queries, i), At(keys, j))) return true;
        }
      }
    }
  }
  return false;
}

// What travels of shards shorter than RingPlan::kRowUnit: the runs of `block` from the first to the
// last that meet what a run of another rank's queries sees, from its first key to its last; all if
// there is none.
Positions Stretch(const RingAttentionOptions& options, int block) {
  const Positions& shard = options.key_positions[block];
  const auto seen_elsewhere = [&](const PositionRun& run) {
    for (size_t rank = 0; rank < options.query_positions.size(); ++rank) {
      if (static_cast<int>(rank) == block) continue;
      for (const PositionRun& queries : options.query_positions[rank]) {
        for (int64_t plane = 0; plane < kBatch * kHeads; ++plane) {
          const KeyRange hull =
              HullOfVisible({options.mask, plane / kHeads, plane % kHeads}, queries);
          if (run.start < hull.end && hull.begin <= run.last()) return true;
        }
      }
    }
    return false;
  };
  const auto first = std::find_if(shard.begin(), shard.end(), seen_elsewhere);
  const auto last = std::find_if(shard.rbegin(), shard.rend(), seen_elsewhere);
  return first == shard.end() ? shard : Positions(first, last.base());
}

struct Bytes {
  std::vector<int64_t> blocks, gradients;  // of each rank's block
};

// Each block to the last rank that sees it, in forward and again in backward, and there the
// gradient from the first such rank to the last and home.
std::vector<int64_t> BytesToSend(const RingAttentionOptions& options, const Bytes& forward,
                                 const Bytes& backward) {
  const auto ring = static_cast<int>(options.key_positions.size());
  std::vector<int64_t> sent(ring, 0);
  for (int block = 0; block < ring; ++block) {
    const Positions keys = Stretch(options, block);
    int first = -1;
    int last = -1;
    for (int step = 0; step < ring; ++step) {
      if (!SeesAny(options.mask, options.query_positions[(block + step) % ring], keys)) continue;
      if (first < 0) first = step;
      last = step;
    }
    for (int step = 0; step < last; ++step) {
      sent[(block + step) % ring] += forward.blocks[block] + backward.blocks[block];
      if (step >= first) sent[(block + step) % ring] += backward.gradients[block];
    }
    if (last > 0) sent[(block + last) % ring] += backward.gradients[block];
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

void CheckCall(const MaskedCase& c, const Call& call, const AttentionOracle& oracle, int ring,
               Layout layout, Layout key_layout) {
  const WholeAttention whole = call.whole(layout, key_layout);
  const RingAttentionOptions options = OptionsFor(whole, ring);
  MeshOptions mesh;
  mesh.ring = ring;
  mesh.threads = 1;
  mesh.timeout_seconds = 60;
  std::vector<int64_t> sent(ring);
  Bytes forward{std::vector<int64_t>(ring), {}};
  Bytes backward{std::vector<int64_t>(ring), std::vector<int64_t>(ring)};
  WholeResults results;
  Launch(mesh, [&](Rank& rank) {
    const int r = rank.ring.rank();
    WholeResults mine = AttendWhole(rank.context, rank.ring, whole);
    sent[r] = rank.ring.bytes_sent();
    if (r == 0) results = std::move(mine);
    // Only the shards know how many bytes a block has.
    const AttentionShape shape{kBatch, kHeads, kKvHeads, 6, 5, DType::kF32};
    const ShardRows query =
        CutRows(rank.context, whole.inputs.query, options.query_positions[r], c.query_offset);
    const ShardRows gradient =
        CutRows(rank.context, *whole.output_gradient, options.query_positions[r], c.query_offset);
    Tensor logsumexp(rank.context.meter, MemoryCategory::kWorkspace, DType::kF32,
                     {kBatch, kHeads, query.shape()[1]});
    logsumexp.Zero();
    const auto shard = MakeShardAttentionForward(rank.context, shape, options, query.view(),
                                                 options.query_positions[r]);
    const auto back = MakeShardAttentionBackward(
        rank.context, shape, options, query.view(),
        {gradient.view(), std::as_const(logsumexp).view(), gradient.view()},
        options.query_positions[r]);
    const int64_t keys = Count(Stretch(options, r));
    forward.blocks[r] = shard->BlockBytes(keys);
    backward.blocks[r] = back->BlockBytes(keys);
    backward.gradients[r] = back->GradientBytes(keys);
  });
  EXPECT_EQ(sent, BytesToSend(options, forward, backward));
  EXPECT_EQ(Compare(results, oracle), "");
}

TEST(RingTraffic, IsWhatTheMaskRequiresInEveryPairOfLayouts) {
  for (const MaskedCase& c : Cases()) {
    const Call call(c);
    const AttentionOracle oracle = call.Oracle();
    for (const int ring : {1, 2, 5}) {
      for (const Layout layout : kLayouts) {
        for (const Layout key_layout : kLayouts) {
          SCOPED_TRACE(std::string(c.name) + ", ring of " + std::to_string(ring) + ", " +
                       std::string(Name(layout)) + " queries, " + std::string(Name(key_layout)) +
                       " keys");
          CheckCall(c, call, oracle, ring, layout, key_layout);
        }
      }
    }
  }
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
  const Mask window{.causal = true, .window_left = 10};
  const int64_t least = MostSent(32, 4, window);
  EXPECT_GT(least, 0);
  for (const int ring : {5, 6, 9}) EXPECT_EQ(MostSent(8 * ring, ring, window), least) << ring;
  EXPECT_GT(MostSent(72, 9, {.causal = true}), 2 * least);
}

// And as the shards grow: only the end of a shard travels, in whole units of rows.
TEST(RingTraffic, OfAWindowDoesNotGrowWithTheSequence) {
  for (const Mask& window :
       {Mask{.causal = true, .window_left = 100}, Mask{.window_left = 0, .window_right = 100}}) {
    const int64_t least = MostSent(3 * RingPlan::kRowUnit, 3, window);
    EXPECT_GT(least, 0);
    for (const int64_t units : {2, 4}) {
      EXPECT_EQ(MostSent(3 * units * RingPlan::kRowUnit, 3, window), least) << units;
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
