#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "ringwise/error.h"
#include "ringwise/mask.h"

namespace ringwise {

Segments ToSegments(std::span<const int32_t> ids, int64_t first_position) {
  Segments segments;
  const auto count = static_cast<int64_t>(ids.size());
  for (int64_t begin = 0; begin < count;) {
    int64_t end = begin + 1;
    while (end < count && ids[end] == ids[begin]) ++end;
    if (ids[begin] >= 0) {
      segments.push_back({first_position + begin, first_position + end, ids[begin]});
    }
    begin = end;
  }
  return segments;
}

SegmentMap::SegmentMap(std::vector<Segments> queries, std::vector<Segments> keys)
    : queries_(std::move(queries)), keys_(std::move(keys)), keys_by_id_(keys_) {
  if (queries_.size() != keys_.size()) {
    throw UsageError("segment ids of " + std::to_string(queries_.size()) +
                     " sequences of queries but " + std::to_string(keys_.size()) +
                     " of keys: give both for every sequence");
  }
  for (Segments& segments : keys_by_id_) {
    std::sort(segments.begin(), segments.end(), [](const Segment& a, const Segment& b) {
      return std::tie(a.id, a.begin) < std::tie(b.id, b.begin);
    });
  }
}

std::span<const Segment> SegmentMap::KeysWithId(int64_t batch, int32_t id) const {
  const Segments& segments = keys_by_id_[batch];
  const auto [begin, end] =
      std::equal_range(segments.begin(), segments.end(), Segment{0, 0, id},
                       [](const Segment& a, const Segment& b) { return a.id < b.id; });
  return {begin, end};
}

}  // namespace ringwise
