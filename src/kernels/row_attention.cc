#include "kernels/row_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(__aarch64__)  // vectors of unknown size cannot be elements of an array
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/row_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/row_products-inl.h"
#include "kernels/row_scores_bf16.h"
#include "kernels/simd-inl.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// All rows over one chunk of positions after the other:
//
//   weights = 2^(scale key . query - row_max)
//   output += weights values
//
// Memory is fast where it is read in order, all kv_heads of a position before the next: rows of one
// head lie apart, and prefetchers lose them. A single row a kv_head does just that. Several rows
// share the loads of their output, and so take a block of positions at once: each from another
// part of the keys, so that every part is read in order.
//
// Scores lie as they are made, [blocks][kv_heads][rows][positions of a block], so that the softmax
// is lane by lane whatever the rows and the positions are.
template <class Element>
class RowWalk {
 public:
  RowWalk(const KeyValueRows<Element>& keys, const AttentionRows& rows)
      : keys_(keys),
        rows_(rows),
        all_rows_(rows.kv_heads * rows.rows),
        block_(std::min(keys.count, BlockOf(rows))),
        blocks_(std::min(keys.count, kPositions) / block_),
        part_(keys.count / (block_ * blocks_) * blocks_),
        lanes_((all_rows_ * block_ * blocks_ + kLine - 1) / kLine * kLine),
        memory_(static_cast<size_t>(3 * lanes_ + kLine + LaneSums::FloatsFor(PairsAtOnce()))) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float);
    scores_ = memory_.data() + (kLine - static_cast<int64_t>(address) % kLine) % kLine;
  }

  void Attend() {
    Prepare();
    for (int64_t begin = 0; begin < part_; begin += blocks_) AttendChunk(begin);
    Finish();
    const int64_t done = block_ * part_;
    if (done == keys_.count) return;
    KeyValueRows<Element> rest = keys_;
    rest.keys.data += done * keys_.keys.stride;
    rest.values.data += done * keys_.values.stride;
    rest.count -= done;
    RowWalk(rest, rows_).Attend();
  }

 private:
  static constexpr float kSlack = 8.0f;
  static constexpr int64_t kLine = 16;  // floats of a cache line
  // Of a chunk: enough for whole vectors of scores.
  static constexpr int64_t kPositions = 16;

  static int64_t BlockOf(const AttentionRows& rows) {
    if (rows.rows == 1) return 1;
    constexpr int64_t kManyRows = 16;
    return rows.rows < kManyRows ? 8 : kPositions;
  }
  int64_t PairsAtOnce() const { return rows_.rows == 1 ? all_rows_ : kRowBlock * block_; }

  // Calls body(row, lane) for the first of each block_ neighbouring lanes.
  template <class Body>
  void ForEachRow(const Body& body) const {
    int64_t lane = 0;
    for (int64_t block = 0; block < blocks_; ++block) {
      for (int64_t row = 0; row < all_rows_; ++row) {
        body(row, lane);
        lane += block_;
      }
    }
  }

  void Prepare() {
    if (std::is_same_v<Element, bf16> && kWidth == kRowScoreLanes && rows_.rows > 1) Narrow();
    fresh_ = false;
    for (int64_t row = 0; row < all_rows_; ++row) fresh_ |= rows_.row_sum[row] == 0;
    ForEachRow([&](int64_t row, int64_t lane) {
      std::fill_n(references() + lane, block_, rows_.row_max[row]);
    });
  }

  // Queries that are bf16 by themselves may be multiplied so.
  void Narrow() {
    native_ = NativeBf16RowScores();
    if (native_ == nullptr) return;
    narrow_.resize(static_cast<size_t>(all_rows_ * rows_.head_dim));
    for (size_t i = 0; i < narrow_.size(); ++i) {
      narrow_[i] = bf16(rows_.query[i]);
      if (static_cast<float>(narrow_[i]) != rows_.query[i]) {
        native_ = nullptr;
        return;
      }
    }
  }

  // The sums of the lanes become those of the rows.
  void Finish() {
    ForEachRow([&](int64_t row, int64_t lane) {
      for (int64_t i = 0; i < block_; ++i) rows_.row_sum[row] += sums()[lane + i];
    });
    std::fill_n(sums(), lanes_, 0.0f);
  }

  // Of the blocks that start at positions `begin` to begin + blocks_ of the parts.
  void AttendChunk(int64_t begin) {
    LaneSums lane_sums(products(), scores());
    for (int64_t block = 0; block < blocks_; ++block) Score(begin + block, lane_sums);
    lane_sums.Finish();
    if (fresh_ || !Fits()) MoveReferences();
    fresh_ = false;
    Weigh();
    const float* weights = scores();
    for (int64_t block = 0; block < blocks_; ++block) {
      AddValues(begin + block, weights);
      weights += all_rows_ * block_;
    }
  }

  // Before the scale.
  void Score(int64_t begin, LaneSums& lane_sums) const {
    const Element* keys = keys_.keys.data + begin * keys_.keys.stride;
    if (rows_.rows == 1) {
      return MultiplyPosition(rows_.query, keys, keys_.keys.head_stride, rows_.kv_heads,
                              rows_.head_dim, lane_sums.Take(all_rows_));
    }
    const float* query = rows_.query;
    for (int64_t head = 0; head < rows_.kv_heads; ++head) {
      for (int64_t row = 0; row < rows_.rows; row += kRowBlock) {
        const int64_t count = std::min<int64_t>(kRowBlock, rows_.rows - row);
        float* lanes = lane_sums.Take(count * block_);
        const int64_t stride = part_ * keys_.keys.stride;
        if constexpr (std::is_same_v<Element, bf16>) {
          if (native_ != nullptr) {
            native_(narrow_.data() + (query - rows_.query), count, keys, stride, block_,
                    rows_.head_dim, lanes);
            query += count * rows_.head_dim;
            continue;
          }
        }
        MultiplyKeys(query, count, keys, stride, block_, rows_.head_dim, lanes);
        query += count * rows_.head_dim;
      }
      keys += keys_.keys.head_stride;
    }
  }

  // Whether no score exceeds its reference by too much.
  bool Fits() const {
    const D d;
    const V scale = hn::Set(d, rows_.scale);
    V highest = hn::Set(d, -std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < lanes_; i += kWidth) {
      highest = Higher(
          hn::MulSub(hn::LoadU(d, scores() + i), scale, hn::LoadU(d, references() + i)), highest);
    }
    return hn::GetLane(hn::MaxOfLanes(d, highest)) <= kSlack;
  }

  void MoveReferences() {
    Finish();
    // Above -inf, which overflow can give: its difference from itself would be NaN.
    std::vector<float> maxima(all_rows_, std::numeric_limits<float>::lowest());
    ForEachRow([&](int64_t row, int64_t lane) {
      for (int64_t i = 0; i < block_; ++i) {
        maxima[row] = std::max(maxima[row], rows_.scale * scores()[lane + i]);
      }
    });
    for (int64_t row = 0; row < all_rows_; ++row) Move(maxima[row], row);
    ForEachRow([&](int64_t row, int64_t lane) {
      std::fill_n(references() + lane, block_, rows_.row_max[row]);
    });
  }

  // Starts from `maximum`, or moves on to it.
  void Move(float maximum, int64_t row) const {
    float* output = rows_.output + row * rows_.value_dim;
    if (rows_.row_sum[row] == 0) {
      std::fill_n(output, rows_.value_dim, 0.0f);
    } else if (maximum > rows_.row_max[row] + kSlack) {
      const float factor = std::exp2(rows_.row_max[row] - maximum);
      rows_.row_sum[row] *= factor;
      for (int64_t i = 0; i < rows_.value_dim; ++i) output[i] *= factor;
    } else {
      return;
    }
    rows_.row_max[row] = maximum;
  }

  // Scores become weights, and add up. The exponent is rounded once: where logits are large a
  // rounded scale * score would be a large part of it.
  void Weigh() {
    const D d;
    const V scale = hn::Set(d, rows_.scale);
    for (int64_t i = 0; i < lanes_; i += kWidth) {
      const V exponent =
          hn::MulSub(hn::LoadU(d, scores() + i), scale, hn::LoadU(d, references() + i));
      const V weight = Exp2(exponent);
      hn::StoreU(weight, d, scores() + i);
      hn::StoreU(hn::Add(hn::LoadU(d, sums() + i), weight), d, sums() + i);
    }
  }

  void AddValues(int64_t begin, const float* weights) const {
    const Element* values = keys_.values.data + begin * keys_.values.stride;
    float* output = rows_.output;
    if (rows_.rows == 1) {
      return AddPosition(weights, values, keys_.values.head_stride, rows_.kv_heads, rows_.value_dim,
                         output);
    }
    for (int64_t head = 0; head < rows_.kv_heads; ++head) {
      AddWeighted(weights, rows_.rows, values, part_ * keys_.values.stride, block_, rows_.value_dim,
                  output);
      weights += rows_.rows * block_;
      output += rows_.rows * rows_.value_dim;
      values += keys_.values.head_stride;
    }
  }

  float* scores() { return scores_; }
  const float* scores() const { return scores_; }
  float* references() { return scores_ + lanes_; }
  const float* references() const { return scores_ + lanes_; }
  float* sums() { return scores_ + 2 * lanes_; }
  float* products() { return scores_ + 3 * lanes_; }

  const KeyValueRows<Element>& keys_;
  const AttentionRows& rows_;
  const int64_t all_rows_;
  const int64_t block_;   // positions, each from another part
  const int64_t blocks_;  // of a chunk
  const int64_t part_;    // positions of a part of the keys: the distance of those of a block
  const int64_t lanes_;   // of a chunk, in whole vectors
  std::vector<float> memory_;
  RowScores native_ = nullptr;  // if that is how scores are made, of `narrow_`
  std::vector<bf16> narrow_;    // the queries
  float* scores_;               // the first whole cache line of memory_
  bool fresh_ = false;          // some row has seen nothing yet
};

void AttendFloats(const KeyValueRows<float>& keys, const AttentionRows& rows) {
  RowWalk<float>(keys, rows).Attend();
}
void AttendBf16s(const KeyValueRows<bf16>& keys, const AttentionRows& rows) {
  RowWalk<bf16>(keys, rows).Attend();
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(AttendFloats);
HWY_EXPORT(AttendBf16s);

void AttendRows(const KeyValueRows<float>& keys, const AttentionRows& rows) {
  if (keys.count > 0) HWY_DYNAMIC_DISPATCH(AttendFloats)(keys, rows);
}
void AttendRows(const KeyValueRows<bf16>& keys, const AttentionRows& rows) {
  if (keys.count > 0) HWY_DYNAMIC_DISPATCH(AttendBf16s)(keys, rows);
}

}  // namespace ringwise
#endif
