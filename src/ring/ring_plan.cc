#include "ring/ring_plan.h"

#include <algorithm>

#include "attention/tiling.h"

namespace ringwise {
namespace {

// Marks the units of a run of travelling rows that meet a visible pair with rows of another rank.
class UnitMarker {
 public:
  UnitMarker(const PositionRun& run, int64_t unit, Travelling travelling)
      : run_(run), unit_(unit), travelling_(travelling), marks_((run.count + unit - 1) / unit) {}

  void Mark(const MaskPlane& plane, const PositionRun& other) {
    if (run_.count > 0 && other.count > 0) Mark(plane, other, {0, std::ssize(marks_)});
  }
  const std::vector<bool>& marks() const { return marks_; }

 private:
  void Mark(const MaskPlane& plane, const PositionRun& other, Range units) {
    const int64_t begin = units.begin * unit_;
    const PositionRun part{run_[begin], std::min(units.end * unit_, run_.count) - begin,
                           run_.stride};
    const bool keys_travel = travelling_ == Travelling::kKeys;
    const TileKind kind = keys_travel ? Classify(plane, other, part) : Classify(plane, part, other);
    if (kind == TileKind::kEmpty) return;
    if (kind == TileKind::kFull || units.size() == 1) {
      std::fill(marks_.begin() + units.begin, marks_.begin() + units.end, true);
      return;
    }
    const int64_t middle = units.begin + units.size() / 2;
    Mark(plane, other, {units.begin, middle});
    Mark(plane, other, {middle, units.end});
  }

  const PositionRun run_;
  const int64_t unit_;
  const Travelling travelling_;
  std::vector<bool> marks_;
};

// How far a block goes each way.
struct Reach {
  int next = 0;
  int previous = 0;
};

// The users, at offsets from the block's rank, are cut in two: those up to an offset are reached by
// way of the next ranks, the others by the previous. Takes the cheapest cut.
Reach ShortestReach(const std::vector<bool>& users, const TravelBytes& bytes, bool rather_next) {
  const auto ranks = static_cast<int>(users.size());
  std::vector<int> offsets;
  for (int offset = 1; offset < ranks; ++offset) {
    if (users[offset]) offsets.push_back(offset);
  }
  Reach best;
  int64_t least = -1;
  for (size_t i = 0; i <= offsets.size(); ++i) {
    const size_t cut = rather_next ? offsets.size() - i : i;
    const Reach reach{cut == 0 ? 0 : offsets[cut - 1],
                      cut == offsets.size() ? 0 : ranks - offsets[cut]};
    int64_t cost = (reach.next + reach.previous) * bytes.block;
    // From the first user to the last, and home.
    if (reach.next > 0) cost += (reach.next - offsets.front() + 1) * bytes.gradient;
    if (reach.previous > 0) {
      cost += (reach.previous - (ranks - offsets.back()) + 1) * bytes.gradient;
    }
    if (least >= 0 && cost >= least) continue;
    least = cost;
    best = reach;
  }
  return best;
}

}  // namespace

std::vector<RingPlan::Block> RingPlan::FindBlocks(const RingCall& call, Travelling travelling,
                                                  int rank, int64_t unit) {
  const auto ranks = static_cast<int>(call.query_positions.size());
  const bool keys_travel = travelling == Travelling::kKeys;
  const auto& travelling_rows = keys_travel ? call.key_positions : call.query_positions;
  const auto& rows_at_home = keys_travel ? call.query_positions : call.key_positions;
  const auto planes = DistinctPlanes(call.mask, call.batch, call.heads);
  std::vector<Block> blocks;
  int64_t row = 0;
  for (const PositionRun& run : travelling_rows[rank]) {
    std::vector<Users> users((run.count + unit - 1) / unit, Users(ranks));
    for (int offset = 1; offset < ranks; ++offset) {
      UnitMarker marker(run, unit, travelling);
      for (const PositionRun& other : rows_at_home[(rank + offset) % ranks]) {
        for (const auto& plane : planes) marker.Mark(plane.first, other);
      }
      for (size_t u = 0; u < users.size(); ++u) users[u][offset] = marker.marks()[u];
    }
    bool new_run = true;
    for (size_t u = 0; u < users.size(); ++u) {
      const Range rows{row + static_cast<int64_t>(u) * unit,
                       row + std::min((static_cast<int64_t>(u) + 1) * unit, run.count)};
      if (!new_run && blocks.back().users == users[u]) {
        blocks.back().rows.end = rows.end;
      } else {
        blocks.push_back({rows, users[u]});
      }
      new_run = false;
    }
    row += run.count;
  }
  return blocks;
}

RingPlan::RingPlan(const RingCall& call, Travelling travelling, const BytesOf& bytes,
                   const BlockCut& cut)
    : travelling_(travelling), bytes_(bytes), home_(call.query_positions.size()) {
  const bool keys_travel = travelling == Travelling::kKeys;
  for (int rank = 0; rank < ring_size(); ++rank) {
    const Positions& shard = (keys_travel ? call.key_positions : call.query_positions)[rank];
    lengths_.push_back(Count(shard));
    const int64_t parts = std::clamp(Count(shard) / cut.least_rows, int64_t{1}, cut.parts);
    const int64_t longest = RoundUp((Count(shard) + parts - 1) / parts, cut.unit);
    int number = 0;
    for (const Block& block : FindBlocks(call, travelling, rank, cut.unit)) {
      if (std::find(block.users.begin(), block.users.end(), true) == block.users.end()) {
        std::vector<Range>& home = home_[rank];
        if (!home.empty() && home.back().end == block.rows.begin) {
          home.back().end = block.rows.end;
        } else {
          home.push_back(block.rows);
        }
        continue;
      }
      for (int64_t begin = block.rows.begin; begin < block.rows.end; begin += longest) {
        const Range rows{begin, std::min(begin + longest, block.rows.end)};
        AddRoutes(rank, number++, rows, PositionsOf(shard, rows), block.users);
      }
    }
    blocks_ = std::max(blocks_, number);
  }
}

void RingPlan::AddRoutes(int origin, int block, Range rows, const Positions& positions,
                         const Users& users) {
  const Reach reach = ShortestReach(users, bytes_(rows.size()), travelling_ == Travelling::kKeys);
  for (const int direction : {1, -1}) {
    const int last = direction == 1 ? reach.next : reach.previous;
    if (last == 0) continue;
    Route route{origin, block, rows, positions, direction, 0, last, std::vector<bool>(last + 1)};
    for (int step = last; step >= 1; --step) {
      route.uses[step] = users[direction == 1 ? step : ring_size() - step];
      if (route.uses[step]) route.first_use = step;
    }
    steps_ = std::max(steps_, last);
    routes_.push_back(std::move(route));
  }
}

int RingPlan::RankAt(const Route& route, int step) const {
  return (route.origin + (route.direction == 1 ? step : ring_size() - step)) % ring_size();
}

int RingPlan::StepAt(const Route& route, int rank) const {
  const int ahead = rank - route.origin;
  return (ring_size() + (route.direction == 1 ? ahead : -ahead)) % ring_size();
}

int64_t RingPlan::BytesSent(int rank) const {
  int64_t sent = 0;
  for (const Route& route : routes_) {
    const int step = StepAt(route, rank);
    const TravelBytes bytes = bytes_(route.rows.size());
    if (route.Moves(step)) sent += bytes.block;
    if (route.GradientLeaves(step)) sent += bytes.gradient;
  }
  return sent;
}

int64_t RingPlan::TotalBytes() const {
  int64_t sent = 0;
  for (int rank = 0; rank < ring_size(); ++rank) sent += BytesSent(rank);
  return sent;
}

}  // namespace ringwise
