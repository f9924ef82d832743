#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ringwise/mask.h"

// Which keys a query sees by each part of a mask, as ranges of positions: what the functions of
// ringwise/mask.h are made of.
namespace ringwise {

// Farther than any position, and sums of two such numbers do not overflow.
inline constexpr int64_t kFar = int64_t{1} << 61;

// First index of `run` whose position is `position` or later; run.count if none is.
inline int64_t FirstFrom(const PositionRun& run, int64_t position) {
  if (position <= run.start) return 0;
  return std::min(run.count, (position - run.start + run.stride - 1) / run.stride);
}

inline int64_t FloorDivide(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

inline KeyRange Intersect(const KeyRange& a, const KeyRange& b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}
inline bool IsEmpty(const KeyRange& range) { return range.begin >= range.end; }

// What causal, window and causal_block leave: both ends grow with the query, and the query's own
// position is always among them.
inline KeyRange ByPosition(const Mask& mask, int64_t query) {
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
inline KeyRange BySlice(const MaskSlice& slice, int64_t query) {
  KeyRange range{slice.k_begin, slice.k_end};
  const bool causal = slice.kind == SliceKind::kCausal || slice.kind == SliceKind::kBoth;
  const bool inverse = slice.kind == SliceKind::kInverseCausal || slice.kind == SliceKind::kBoth;
  if (causal) range.end = std::min(range.end, query - slice.q_end + slice.k_end + 1);
  if (inverse) range.begin = std::max(range.begin, query - slice.q_begin + slice.k_begin);
  return range;
}

inline bool Holds(const MaskSlice& slice, int64_t head, int64_t query) {
  return (!slice.head || *slice.head == head) && slice.q_begin <= query && query < slice.q_end;
}

// Whether some query of the run lies in the slice.
inline bool Meets(const MaskSlice& slice, int64_t head, const PositionRun& queries) {
  return (!slice.head || *slice.head == head) && slice.q_begin <= queries.last() &&
         queries.start < slice.q_end;
}

// The first segment that ends after the position.
inline Segments::const_iterator FirstAfter(const Segments& segments, int64_t position) {
  return std::upper_bound(segments.begin(), segments.end(), position,
                          [](int64_t at, const Segment& segment) { return at < segment.end; });
}

// The keys that queries see, as disjoint ascending ranges. Queries are asked for in ascending
// order.
class VisibleKeys {
 public:
  // Of `queries`; only keys of `within` are wanted.
  VisibleKeys(const MaskPlane& plane, const PositionRun& queries, KeyRange within)
      : plane_(plane), within_(within) {
    if (queries.count == 0) return;
    if (plane.mask.segments) {
      next_segment_ = FirstAfter(plane.mask.segments->queries(plane.batch), queries.start);
    }
    if (plane.mask.slices) {
      for (const MaskSlice& slice : *plane.mask.slices) {
        if (!Meets(slice, plane.head, queries)) continue;
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

inline bool DecidedByPosition(const Mask& mask) { return !mask.segments && !mask.slices; }

inline KeyRange Span(const PositionRun& keys) { return {keys.start, keys.last() + 1}; }

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

}  // namespace ringwise
