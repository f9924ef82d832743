#include "attention/backward_plan.h"

#include <algorithm>

namespace ringwise {

BlockHulls::BlockHulls(ThreadTeam& team, const Mask& mask, const AttentionShape& shape,
                       const std::vector<RowBlock>& blocks)
    : blocks_(static_cast<int64_t>(blocks.size())) {
  const auto distinct = DistinctPlanes(mask, shape.batch, shape.heads);
  if (distinct.empty()) return;
  batches_ = distinct.back().first.batch + 1;
  heads_ = distinct.back().first.head + 1;
  hulls_.resize(planes() * blocks_);
  team.PrepareEach(planes(), [&](int64_t plane, int) {
    for (int64_t block = 0; block < blocks_; ++block) {
      hulls_[plane * blocks_ + block] = HullOfVisible(Plane(mask, plane), blocks[block].positions);
    }
  });
}

namespace {

// What the queries of one plane see of one key tile.
struct TileWork {
  int64_t pairs = 0;
  int64_t blocks = 0;  // that see any
};

TileWork Measure(const MaskPlane& plane, std::span<const KeyRange> hulls,
                 const std::vector<RowBlock>& query_blocks, const RowBlock& tile) {
  TileWork work;
  for (size_t block = 0; block < hulls.size(); ++block) {
    if (!Meets(hulls[block], tile.positions)) continue;
    const PositionRun& queries = query_blocks[block].positions;
    const TileKind kind = Classify(plane, queries, tile.positions);
    if (kind == TileKind::kEmpty) continue;
    ++work.blocks;
    work.pairs += kind == TileKind::kFull ? queries.count * tile.count()
                                          : CountVisible(plane, {queries}, {tile.positions});
  }
  return work;
}

}  // namespace

BackwardPlan::BackwardPlan(ThreadTeam& team, const Mask& mask, const AttentionShape& shape,
                           const BlockHulls& hulls, const std::vector<RowBlock>& query_blocks,
                           const std::vector<RowBlock>& key_tiles)
    : groups_(key_tiles.empty() ? 0 : shape.batch * shape.kv_heads),
      tiles_(static_cast<int64_t>(key_tiles.size())) {
  std::vector<TileWork> work(hulls.planes() * tiles_);
  team.PrepareEach(static_cast<int64_t>(work.size()), [&](int64_t index, int) {
    const int64_t plane = index / tiles_;
    work[index] =
        Measure(hulls.Plane(mask, plane), hulls.Of(plane), query_blocks, key_tiles[index % tiles_]);
  });
  work_before_.reserve(groups_ * tiles_ + 1);
  work_before_.push_back(0);
  const int64_t group_heads = shape.heads / shape.kv_heads;
  for (int64_t group = 0; group < groups_; ++group) {
    const int64_t batch = group / shape.kv_heads;
    const int64_t first_head = group % shape.kv_heads * group_heads;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      double pairs = 0;
      for (int64_t head = first_head; head < first_head + group_heads; ++head) {
        const TileWork& seen = work[hulls.PlaneOf(batch, head) * tiles_ + tile];
        pairs += static_cast<double>(seen.pairs);
        computed_tiles_ += seen.blocks;
      }
      work_before_.push_back(work_before_.back() + pairs);
    }
  }
}

std::vector<int64_t> BackwardPlan::Deal(int threads, int64_t begin, int64_t end) const {
  const int64_t first = begin * tiles_;
  const int64_t last = end * tiles_;
  std::vector<int64_t> bounds(threads + 1, last);
  bounds[0] = first;
  const double total = work_before_[last] - work_before_[first];
  int64_t item = first;
  for (int thread = 1; thread < threads; ++thread) {
    const double goal = work_before_[first] + total * thread / threads;
    while (item < last && (work_before_[item] + work_before_[item + 1]) / 2 < goal) ++item;
    bounds[thread] = item;
  }
  return bounds;
}

}  // namespace ringwise
