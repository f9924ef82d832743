#include "ringwise/mask.h"

#include <algorithm>
#include <cassert>
#include <limits>

namespace ringwise {
namespace {

// Farther than any position, and sums of two such numbers do not overflow.
constexpr int64_t kFar = int64_t{1} << 61;

// First index of `run` whose position is `position` or later; run.count if none is.
int64_t FirstFrom(const PositionRun& run, int64_t position) {
  if (position <= run.start) return 0;
  return std::min(run.count, (position - run.start + run.stride - 1) / run.stride);
}

int64_t FloorDivide(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

KeyRange Intersect(const KeyRange& a, const KeyRange& b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}
bool IsEmpty(const KeyRange& range) { return range.begin >= range.end; }

// What causal, window and causal_block leave: both ends grow with the query, and the query's own
// position is always among them.
KeyRange ByPosition(const Mask& mask, int64_t query) {
  KeyRange range{-kFar, kFar};
  if (mask.causal) range.end = query + 1;
  if (mask.causal_block > 0) {
    const int64_t block = FloorDivide(query, mask.causal_block);
    range.end = std::min(range.end, (block + 1) * mask.causal_block);
  }
  if (mask.window_left) range.begin = query - std::min(*mask.window_left, kFar);
  if (mask.window_right)
    range.end = std::min(range.end, query + std::min(*mask.window_right, kFar) + 1);
  return range;
}

// What one slice shows a query that lies in it.
KeyRange BySlice(const MaskSlice& slice, int64_t query) {
  KeyRange range{slice.k_begin, slice.k_end};
  const bool causal = slice.kind == SliceKind::kCausal || slice.kind == SliceKind::kBoth;
  const bool inverse = slice.kind == SliceKind::kInverseCausal || slice.kind == SliceKind::kBoth;
  if (causal) range.end = std::min(range.end, query - slice.q_end + slice.k_end + 1);
  if (inverse) range.begin = std::max(range.begin, query - slice.q_begin + slice.k_begin);
  return range;
}

bool Holds(const MaskSlice& slice, int64_t head, int64_t query) {
  return (!slice.head || *slice.head == head) && slice.q_begin <= query && query < slice.q_end;
}

// The keys that queries see, as disjoint ascending ranges. Queries are asked for in ascending
// order.
class VisibleKeys {
 public:
  // Only keys of `within` are wanted, of queries [first_query, last_query].
  VisibleKeys(const MaskPlane& plane, const PositionRun& queries, KeyRange within)
      : plane_(plane), within_(within) {
    if (queries.count == 0) return;
    if (plane.mask.segments) {
      const Segments& segments = plane.mask.segments->queries(plane.batch);
      next_segment_ = std::upper_bound(
          segments.begin(), segments.end(), queries.start,
          [](int64_t position, const Segment& segment) { return position < segment.end; });
    }
    if (plane.mask.slices) {
      for (const MaskSlice& slice : *plane.mask.slices) {
        if (slice.head && *slice.head != plane.head) continue;
        if (slice.q_end <= queries.start || slice.q_begin > queries.last()) continue;
        if (IsEmpty(Intersect(within, {slice.k_begin, slice.k_end}))) continue;
        slices_.push_back(&slice);
      }
    }
  }

  const std::vector<KeyRange>& Of(int64_t query) {
    ranges_.clear();
    const KeyRange range = Intersect(within_, ByPosition(plane_.mask, query));
    if (IsEmpty(range)) return ranges_;
    if (plane_.mask.segments) {
      AddSegments(query, range);
    } else {
      ranges_.push_back(range);
    }
    if (plane_.mask.slices && !ranges_.empty()) IntersectSlices(query);
    return ranges_;
  }

 private:
  void AddSegments(int64_t query, const KeyRange& range) {
    const SegmentMap& map = *plane_.mask.segments;
    const Segments& segments = map.queries(plane_.batch);
    while (next_segment_ != segments.end() && next_segment_->end <= query) ++next_segment_;
    if (next_segment_ == segments.end() || next_segment_->begin > query) return;
    if (keys_of_ != &*next_segment_) {
      keys_of_ = &*next_segment_;
      keys_ = map.KeysWithId(plane_.batch, keys_of_->id);
    }
    for (const Segment& keys : keys_) Append(Intersect(range, {keys.begin, keys.end}), ranges_);
  }

  // Ranges that touch are joined.
  static void Append(const KeyRange& range, std::vector<KeyRange>& ranges) {
    if (IsEmpty(range)) return;
    if (!ranges.empty() && range.begin <= ranges.back().end) {
      ranges.back().end = std::max(ranges.back().end, range.end);
    } else {
      ranges.push_back(range);
    }
  }

  void IntersectSlices(int64_t query) {
    shown_.clear();
    for (const MaskSlice* slice : slices_) {
      if (!Holds(*slice, plane_.head, query)) continue;
      const KeyRange range = BySlice(*slice, query);
      if (!IsEmpty(range)) shown_.push_back(range);
    }
    std::sort(shown_.begin(), shown_.end(),
              [](const KeyRange& a, const KeyRange& b) { return a.begin < b.begin; });
    united_.clear();
    for (const KeyRange& range : shown_) Append(range, united_);
    shown_.clear();
    size_t slice = 0;
    for (const KeyRange& range : ranges_) {
      while (slice < united_.size() && united_[slice].end <= range.begin) ++slice;
      for (size_t s = slice; s < united_.size() && united_[s].begin < range.end; ++s) {
        shown_.push_back(Intersect(range, united_[s]));
      }
    }
    std::swap(ranges_, shown_);
  }

  const MaskPlane& plane_;
  const KeyRange within_;
  std::vector<Segment>::const_iterator next_segment_;
  const Segment* keys_of_ = nullptr;  // the query segment whose keys these are
  std::span<const Segment> keys_;
  std::vector<const MaskSlice*> slices_;
  std::vector<KeyRange> ranges_, shown_, united_;
};

bool DecidedByPosition(const Mask& mask) { return !mask.segments && !mask.slices; }

KeyRange Span(const PositionRun& keys) { return {keys.start, keys.last() + 1}; }

// What a run of queries sees of a run of keys where position alone decides: both ends of what a
// query sees grow with the query, so that they are found by walking on, without a division.
class VisibleByPosition {
 public:
  // Of queries from `first` on.
  VisibleByPosition(const Mask& mask, int64_t first, const PositionRun& keys)
      : mask_(mask), keys_(keys) {
    const KeyRange range = ByPosition(mask, first);
    seen_ = {FirstFrom(keys, range.begin), FirstFrom(keys, range.end)};
  }
  // Local indices of keys. Queries are asked for in ascending order.
  KeyRange Of(int64_t query) {
    const KeyRange range = ByPosition(mask_, query);
    while (seen_.begin < keys_.count && keys_[seen_.begin] < range.begin) ++seen_.begin;
    while (seen_.end < keys_.count && keys_[seen_.end] < range.end) ++seen_.end;
    return {std::min(seen_.begin, seen_.end), seen_.end};
  }

 private:
  const Mask& mask_;
  const PositionRun& keys_;
  KeyRange seen_;
};

// Calls visit(query, ranges) with the local indices of the keys that each query sees, until it
// returns false.
template <class Visit>
void ForEachQuery(const MaskPlane& plane, const PositionRun& queries, const PositionRun& keys,
                  const Visit& visit) {
  if (queries.count == 0) return;
  if (DecidedByPosition(plane.mask)) {
    VisibleByPosition visible(plane.mask, queries.start, keys);
    for (int64_t i = 0; i < queries.count; ++i) {
      const KeyRange range = visible.Of(queries[i]);
      if (!visit(i, std::span<const KeyRange>(&range, 1))) return;
    }
    return;
  }
  VisibleKeys visible(plane, queries, Span(keys));
  std::vector<KeyRange> indices;
  for (int64_t i = 0; i < queries.count; ++i) {
    indices.clear();
    for (const KeyRange& range : visible.Of(queries[i])) {
      indices.push_back({FirstFrom(keys, range.begin), FirstFrom(keys, range.end)});
    }
    if (!visit(i, std::span<const KeyRange>(indices))) return;
  }
}

}  // namespace

bool Mask::operator==(const Mask& other) const {
  const auto same = [](const auto& a, const auto& b) {
    return a == b || (a != nullptr && b != nullptr && *a == *b);
  };
  return causal == other.causal && window_left == other.window_left &&
         window_right == other.window_right && causal_block == other.causal_block &&
         same(segments, other.segments) && same(slices, other.slices);
}

std::vector<std::pair<MaskPlane, int64_t>> DistinctPlanes(const Mask& mask, int64_t batch,
                                                          int64_t heads) {
  const bool by_head =
      mask.slices && std::any_of(mask.slices->begin(), mask.slices->end(),
                                 [](const MaskSlice& slice) { return slice.head.has_value(); });
  const int64_t batches = mask.segments ? batch : std::min<int64_t>(batch, 1);
  const int64_t planes = by_head ? heads : std::min<int64_t>(heads, 1);
  std::vector<std::pair<MaskPlane, int64_t>> distinct;
  for (int64_t b = 0; b < batches; ++b) {
    for (int64_t h = 0; h < planes; ++h) {
      distinct.push_back({MaskPlane{mask, b, h}, batch / batches * (heads / planes)});
    }
  }
  return distinct;
}

bool Sees(const MaskPlane& plane, int64_t query_position, int64_t key_position) {
  const Mask& mask = plane.mask;
  const int64_t i = query_position;
  const int64_t j = key_position;
  if (mask.causal && j > i) return false;
  if (mask.window_left && i - j > *mask.window_left) return false;
  if (mask.window_right && j - i > *mask.window_right) return false;
  if (mask.causal_block > 0 &&
      FloorDivide(j, mask.causal_block) > FloorDivide(i, mask.causal_block)) {
    return false;
  }
  if (mask.segments) {
    const auto find = [](const Segments& segments, int64_t position) {
      return std::find_if(segments.begin(), segments.end(), [&](const Segment& segment) {
        return segment.begin <= position && position < segment.end;
      });
    };
    const Segments& queries = mask.segments->queries(plane.batch);
    const Segments& keys = mask.segments->keys(plane.batch);
    const auto query = find(queries, i);
    const auto key = find(keys, j);
    if (query == queries.end() || key == keys.end() || query->id != key->id) return false;
  }
  if (!mask.slices) return true;
  return std::any_of(mask.slices->begin(), mask.slices->end(), [&](const MaskSlice& slice) {
    if (!Holds(slice, plane.head, i) || j < slice.k_begin || j >= slice.k_end) return false;
    const bool causal = j - slice.k_end <= i - slice.q_end;
    const bool inverse = j - slice.k_begin >= i - slice.q_begin;
    switch (slice.kind) {
      case SliceKind::kCausal:
        return causal;
      case SliceKind::kInverseCausal:
        return inverse;
      case SliceKind::kBoth:
        return causal && inverse;
      case SliceKind::kFull:
        break;
    }
    return true;
  });
}

TileKind Classify(const MaskPlane& plane, const PositionRun& queries, const PositionRun& keys) {
  if (queries.count == 0 || keys.count == 0) return TileKind::kEmpty;
  const KeyRange first = ByPosition(plane.mask, queries.start);
  const KeyRange last = ByPosition(plane.mask, queries.last());
  if (last.end <= keys.start || first.begin > keys.last()) return TileKind::kEmpty;
  if (DecidedByPosition(plane.mask)) {
    if (last.begin <= keys.start && first.end > keys.last()) return TileKind::kFull;
    // The ranges of neighbours overlap, so that together they leave no gap for a key.
    if (queries.stride == 1 && keys.stride == 1) return TileKind::kPartial;
    // Mostly the first or the last query sees a key if any does.
    for (const KeyRange& range : {last, first}) {
      if (FirstFrom(keys, range.begin) < FirstFrom(keys, range.end)) return TileKind::kPartial;
    }
  }
  bool any = false;
  bool all = true;
  ForEachQuery(plane, queries, keys, [&](int64_t, std::span<const KeyRange> seen_ranges) {
    int64_t seen = 0;
    for (const KeyRange& range : seen_ranges) seen += range.end - range.begin;
    any = any || seen > 0;
    all = all && seen == keys.count;
    return !any || all;
  });
  if (!any) return TileKind::kEmpty;
  return all ? TileKind::kFull : TileKind::kPartial;
}

void VisibleBits(const MaskPlane& plane, const PositionRun& queries, const PositionRun& keys,
                 std::span<uint64_t> bits) {
  assert(queries.count <= 64 && static_cast<int64_t>(bits.size()) == keys.count);
  // Marks where each query's ranges begin and end; what lies between follows by summing up.
  std::fill(bits.begin(), bits.end(), uint64_t{0});
  ForEachQuery(plane, queries, keys, [&](int64_t query, std::span<const KeyRange> ranges) {
    const uint64_t bit = uint64_t{1} << query;
    for (const KeyRange& range : ranges) {
      if (range.begin < keys.count) bits[range.begin] ^= bit;
      if (range.end < keys.count) bits[range.end] ^= bit;
    }
    return true;
  });
  uint64_t open = 0;
  for (uint64_t& row : bits) row = open ^= row;
}

KeyRange HullOfVisible(const MaskPlane& plane, const PositionRun& queries) {
  if (queries.count == 0) return {};
  const KeyRange by_position{ByPosition(plane.mask, queries.start).begin,
                             ByPosition(plane.mask, queries.last()).end};
  if (DecidedByPosition(plane.mask)) return by_position;
  KeyRange hull{kFar, -kFar};
  const auto widen = [&](int64_t begin, int64_t end) {
    hull = {std::min(hull.begin, begin), std::max(hull.end, end)};
  };
  if (plane.mask.segments) {
    const Segments& segments = plane.mask.segments->queries(plane.batch);
    auto segment = std::upper_bound(
        segments.begin(), segments.end(), queries.start,
        [](int64_t position, const Segment& other) { return position < other.end; });
    for (; segment != segments.end() && segment->begin <= queries.last(); ++segment) {
      const auto keys = plane.mask.segments->KeysWithId(plane.batch, segment->id);
      if (!keys.empty()) widen(keys.front().begin, keys.back().end);
    }
    hull = Intersect(hull, by_position);
    if (!plane.mask.slices) return hull;
  }
  const KeyRange before = plane.mask.segments ? hull : by_position;
  hull = {kFar, -kFar};
  for (const MaskSlice& slice : *plane.mask.slices) {
    if (slice.head && *slice.head != plane.head) continue;
    if (slice.q_end <= queries.start || slice.q_begin > queries.last()) continue;
    widen(slice.k_begin, slice.k_end);
  }
  return Intersect(hull, before);
}

int64_t CountVisible(const MaskPlane& plane, const Positions& queries, const Positions& keys) {
  int64_t count = 0;
  for (const PositionRun& query_run : queries) {
    for (const PositionRun& key_run : keys) {
      if (query_run.count == 0 || key_run.count == 0) continue;
      ForEachQuery(plane, query_run, key_run, [&](int64_t, std::span<const KeyRange> ranges) {
        for (const KeyRange& range : ranges) count += range.end - range.begin;
        return true;
      });
    }
  }
  return count;
}

}  // namespace ringwise
