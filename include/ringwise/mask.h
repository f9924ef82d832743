#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "ringwise/positions.h"

namespace ringwise {

// One document of a packed sequence: positions [begin, end) with one id.
struct Segment {
  int64_t begin = 0;
  int64_t end = 0;
  int32_t id = 0;

  bool operator==(const Segment&) const = default;
};
// Ascending and disjoint. Positions that lie in none are padding: they see nothing and nothing sees
// them. An id may come more than once.
using Segments = std::vector<Segment>;

// The segments of one id a position, the first at `first_position`; negative ids are padding.
Segments ToSegments(std::span<const int32_t> ids, int64_t first_position);

// The documents of a whole batch: a query sees the keys of its own document's id.
class SegmentMap {
 public:
  // By sequence of the batch, as many of queries as of keys.
  SegmentMap(std::vector<Segments> queries, std::vector<Segments> keys);

  int64_t batch() const { return static_cast<int64_t>(queries_.size()); }
  const Segments& queries(int64_t batch) const { return queries_[batch]; }
  const Segments& keys(int64_t batch) const { return keys_[batch]; }
  // The segments of keys that have the id, ascending.
  std::span<const Segment> KeysWithId(int64_t batch, int32_t id) const;

  bool operator==(const SegmentMap& other) const {
    return queries_ == other.queries_ && keys_ == other.keys_;
  }

 private:
  std::vector<Segments> queries_;
  std::vector<Segments> keys_;
  std::vector<Segments> keys_by_id_;  // sorted by id, then position
};

// A rectangle of positions, or the part of it on one side of a diagonal. With queries [q_begin,
// q_end) and keys [k_begin, k_end):
//   causal          j - k_end <= i - q_end         aligned at the last corner
//   inverse causal  j - k_begin >= i - q_begin     aligned at the first corner
//   both            their intersection
enum class SliceKind { kFull, kCausal, kInverseCausal, kBoth };
struct MaskSlice {
  std::optional<int64_t> head;  // of query; none: every head
  int64_t q_begin = 0;
  int64_t q_end = 0;
  int64_t k_begin = 0;
  int64_t k_end = 0;
  SliceKind kind = SliceKind::kFull;

  bool operator==(const MaskSlice&) const = default;
};

// Which keys a query may see, as a function of global positions alone: the same whatever the
// layout, the number of ranks or the tiles. All parts intersect.
struct Mask {
  bool causal = false;  // key position <= query position
  // Keys from query position - window_left to query position + window_right; none: no limit.
  std::optional<int64_t> window_left = {};
  std::optional<int64_t> window_right = {};
  // Blocks of so many positions see their own and earlier blocks; 0: no blocks.
  int64_t causal_block = 0;
  std::shared_ptr<const SegmentMap> segments = {};            // null: one document
  std::shared_ptr<const std::vector<MaskSlice>> slices = {};  // their union; null: everything

  bool operator==(const Mask& other) const;
};

// The mask of one sequence of the batch and one query head. `mask` must outlive it.
struct MaskPlane {
  const Mask& mask;
  int64_t batch = 0;
  int64_t head = 0;
};
// The planes of `batch` sequences and `heads` heads that may differ, each with the number of
// (sequence, head) pairs it stands for.
std::vector<std::pair<MaskPlane, int64_t>> DistinctPlanes(const Mask& mask, int64_t batch,
                                                          int64_t heads);

// The definition, for one pair: what the other functions must agree with.
bool Sees(const MaskPlane& plane, int64_t query_position, int64_t key_position);

enum class TileKind { kEmpty, kFull, kPartial };

// Whether no, every or some key of `keys` is visible from the queries of `queries`; exact. At most
// O(queries + keys). A tile without rows or columns is empty.
TileKind Classify(const MaskPlane& plane, const PositionRun& queries, const PositionRun& keys);

// bits[row] = the queries that see key keys[row], query `c` as bit c. At most 64 queries; bits has
// keys.count words.
void VisibleBits(const MaskPlane& plane, const PositionRun& queries, const PositionRun& keys,
                 std::span<uint64_t> bits);

// Key positions [begin, end) outside of which the queries see nothing; not always the narrowest.
struct KeyRange {
  int64_t begin = 0;
  int64_t end = 0;
};
KeyRange HullOfVisible(const MaskPlane& plane, const PositionRun& queries);

// Number of (query, key) pairs visible: the least work there is. O(queries + keys)
// for each pair of runs.
int64_t CountVisible(const MaskPlane& plane, const Positions& queries, const Positions& keys);

}  // namespace ringwise
