#include "ringwise/mask.h"

#include <algorithm>
#include <cassert>
#include <limits>

#include "attention/visible_keys.h"

namespace ringwise {
namespace {

// How many of the keys in a range the queries of a run see as far as one part of the mask goes,
// where that can be told without looking at each query; else kSome.
enum class Shown { kNone, kSome, kAll };

Shown ShownBySegments(const MaskPlane& plane, const PositionRun& queries, const KeyRange& keys) {
  const Segments& segments = plane.mask.segments->queries(plane.batch);
  auto segment = FirstAfter(segments, queries.start);
  const bool one =
      segment != segments.end() && segment->begin <= queries.start && queries.last() < segment->end;
  for (; segment != segments.end() && segment->begin <= queries.last(); ++segment) {
    for (const Segment& shown : plane.mask.segments->KeysWithId(plane.batch, segment->id)) {
      if (IsEmpty(Intersect(keys, {shown.begin, shown.end}))) continue;
      const bool all = one && shown.begin <= keys.begin && keys.end <= shown.end;
      return all ? Shown::kAll : Shown::kSome;
    }
  }
  return Shown::kNone;
}

Shown ShownBySlices(const MaskPlane& plane, const PositionRun& queries, const KeyRange& keys) {
  Shown most = Shown::kNone;
  for (const MaskSlice& slice : *plane.mask.slices) {
    if (!Meets(slice, plane.head, queries)) continue;
    if (IsEmpty(Intersect(keys, {slice.k_begin, slice.k_end}))) continue;
    const bool all = slice.kind == SliceKind::kFull && slice.q_begin <= queries.start &&
                     queries.last() < slice.q_end && slice.k_begin <= keys.begin &&
                     keys.end <= slice.k_end;
    if (all) return Shown::kAll;
    most = Shown::kSome;
  }
  return most;
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
  bool full = last.begin <= keys.start && first.end > keys.last();
  if (plane.mask.segments) {
    const Shown shown = ShownBySegments(plane, queries, Span(keys));
    if (shown == Shown::kNone) return TileKind::kEmpty;
    full = full && shown == Shown::kAll;
  }
  if (plane.mask.slices) {
    const Shown shown = ShownBySlices(plane, queries, Span(keys));
    if (shown == Shown::kNone) return TileKind::kEmpty;
    full = full && shown == Shown::kAll;
  }
  if (full) return TileKind::kFull;
  if (DecidedByPosition(plane.mask)) {
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
    auto segment = FirstAfter(segments, queries.start);
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
    if (!Meets(slice, plane.head, queries)) continue;
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
