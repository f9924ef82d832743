#include "kernels/row_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/round_up.h"
#include "kernels/row_batches.h"

#if defined(__aarch64__)  // vectors of unknown size cannot be elements of an array
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/row_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/row_products-inl.h"
#include "kernels/simd-inl.h"
#include "kernels/steady_prefetch.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// Rows of some kv_heads that lie side by side, over kKeyLanes positions of a head at a time:
//
//   scores  = keys query                     keys packed; lanes are positions
//   weights = 2^(scale scores - row_max)
//   output += weights values                 where they lie; lanes are columns
//
template <class Element>
class RowWalk {
 public:
  RowWalk(const KeyValueRows<Element>& keys, const AttentionRows& rows)
      : keys_(keys), rows_(rows), padded_(RoundUp(rows.head_dim, kPackedUnit<Element>)) {
    const int64_t all_rows = rows.kv_heads * rows.rows;
    const int64_t packed = std::max(padded_, rows.value_dim) * kKeyLanes;
    const int64_t scores = rows.rows * kKeyLanes;
    memory_.resize(static_cast<size_t>(kLine + packed + scores + all_rows * kWidth +
                                       all_rows * rows.head_dim));
    const auto address = reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float);
    packed_ = memory_.data() + (kLine - static_cast<int64_t>(address) % kLine) % kLine;
    scores_ = packed_ + packed;
    sums_ = scores_ + scores;
    queries_ = sums_ + all_rows * kWidth;
    for (int64_t row = 0; row < all_rows; ++row) fresh_ |= rows.row_sum[row] == 0;
    for (int64_t head = 0; head < rows.kv_heads; ++head) {
      ForEachBlock<kRowBlock>(rows.rows, [&](auto row_block, int64_t row) {
        const int64_t first = (head * rows.rows + row) * rows.head_dim;
        PackQueries<row_block.value>(rows.query + first, rows.head_dim, queries_ + first);
      });
    }
  }

  void Attend() {
    const int64_t work = WorkOfKeys<Element>(rows_.rows, padded_, rows_.value_dim);
    ForEachBatch(keys_, rows_, kKeyLanes, work, ahead_,
                 [&](int64_t head, int64_t begin, int64_t count) {
                   AttendKeys(head, begin, count, RowsOf(head));
                 });
    for (int64_t head = 0; head < rows_.kv_heads; ++head) AddSums(RowsOf(head));
  }

 private:
  // One kv_head's.
  struct HeadRows {
    const float* queries;  // packed
    float* output;
    float* row_max;
    float* row_sum;
    float* row_weight;  // or null
    float* sums;        // [kWidth] of each row, which its row_sum and row_weight lack
  };

  static constexpr int64_t kLine = 16;  // floats of a cache line
  static constexpr float kSlack = 8.0f;

  HeadRows RowsOf(int64_t head) const {
    const int64_t first = head * rows_.rows;
    return {queries_ + first * rows_.head_dim,
            rows_.output + first * rows_.value_dim,
            rows_.row_max + first,
            rows_.row_sum + first,
            rows_.row_weight == nullptr ? nullptr : rows_.row_weight + first,
            sums_ + first * kWidth};
  }

  void AttendKeys(int64_t head, int64_t begin, int64_t count, const HeadRows& rows) {
    Score(keys_.keys.data + begin * keys_.keys.stride + head * keys_.keys.head_stride, count, rows);
    if ((fresh_ && begin == 0) || !Fits(rows)) MoveReferences(rows);
    Weigh(count, rows);
    AddValues(keys_.values.data + begin * keys_.values.stride + head * keys_.values.head_stride,
              count, rows);
  }

  // Before the scale. Lanes past `count` get the scores of the last key.
  void Score(const Element* keys, int64_t count, const HeadRows& rows) {
    if (count == kKeyLanes && padded_ == rows_.head_dim) {
      PackKeys(keys, keys_.keys.stride, padded_, packed_, ahead_);
    } else {
      PackKeys(Pad(keys, count), padded_, padded_, packed_, ahead_);
    }
    ForEachBlock<kRowBlock>(rows_.rows, [&](auto row_block, int64_t row) HWY_ATTR {
      MultiplyPacked<row_block.value>(rows.queries + row * rows_.head_dim, rows_.head_dim, packed_,
                                      scores_ + row * kKeyLanes, ahead_);
    });
  }

  // kKeyLanes keys of whole units.
  const Element* Pad(const Element* keys, int64_t count) {
    pad_.resize(static_cast<size_t>(kKeyLanes * padded_));
    for (int64_t key = 0; key < kKeyLanes; ++key) {
      std::copy_n(keys + std::min(key, count - 1) * keys_.keys.stride, rows_.head_dim,
                  pad_.data() + key * padded_);
    }
    return pad_.data();
  }

  // Whether no score exceeds its reference by too much.
  bool Fits(const HeadRows& rows) const {
    const D d;
    const V scale = hn::Set(d, rows_.scale);
    V highest = hn::Set(d, -std::numeric_limits<float>::infinity());
    for (int64_t row = 0; row < rows_.rows; ++row) {
      const V reference = hn::Set(d, rows.row_max[row]);
      const float* scores = scores_ + row * kKeyLanes;
      for (int64_t i = 0; i < kKeyLanes; i += kWidth) {
        highest = Higher(hn::MulSub(hn::LoadU(d, scores + i), scale, reference), highest);
      }
    }
    return hn::GetLane(hn::MaxOfLanes(d, highest)) <= kSlack;
  }

  void MoveReferences(const HeadRows& rows) const {
    AddSums(rows);
    for (int64_t row = 0; row < rows_.rows; ++row) {
      // Above -inf, which overflow can give: its difference from itself would be NaN.
      float maximum = std::numeric_limits<float>::lowest();
      for (int64_t i = 0; i < kKeyLanes; ++i) {
        maximum = std::max(maximum, rows_.scale * scores_[row * kKeyLanes + i]);
      }
      Move(maximum, row, rows);
    }
  }

  void AddSums(const HeadRows& rows) const {
    for (int64_t row = 0; row < rows_.rows; ++row) {
      for (int64_t i = 0; i < kWidth; ++i) {
        const float sum = rows.sums[row * kWidth + i];
        rows.row_sum[row] += sum;
        if (rows.row_weight != nullptr) rows.row_weight[row] += sum;
      }
    }
    std::fill_n(rows.sums, rows_.rows * kWidth, 0.0f);
  }

  // Starts from `maximum`, or moves on to it.
  void Move(float maximum, int64_t row, const HeadRows& rows) const {
    float* output = rows.output + row * rows_.value_dim;
    if (rows.row_sum[row] == 0) {
      std::fill_n(output, rows_.value_dim, 0.0f);
    } else if (maximum > rows.row_max[row] + kSlack) {
      const float factor = std::exp2(rows.row_max[row] - maximum);
      rows.row_sum[row] *= factor;
      if (rows.row_weight != nullptr) rows.row_weight[row] *= factor;
      for (int64_t i = 0; i < rows_.value_dim; ++i) output[i] *= factor;
    } else {
      return;
    }
    rows.row_max[row] = maximum;
  }

  // Scores become weights, and add up. The exponent is rounded once: where logits are large a
  // rounded scale * score would be a large part of it.
  void Weigh(int64_t count, const HeadRows& rows) const {
    const D d;
    const V scale = hn::Set(d, rows_.scale);
    for (int64_t row = 0; row < rows_.rows; ++row) {
      const V reference = hn::Set(d, rows.row_max[row]);
      float* scores = scores_ + row * kKeyLanes;
      V sum = hn::LoadU(d, rows.sums + row * kWidth);
      for (int64_t i = 0; i < count; i += kWidth) {
        V weight = Exp2(hn::MulSub(hn::LoadU(d, scores + i), scale, reference));
        if (count - i < kWidth) {
          weight = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(count - i)), weight);
        }
        hn::StoreU(weight, d, scores + i);
        sum = hn::Add(sum, weight);
      }
      hn::StoreU(sum, d, rows.sums + row * kWidth);
    }
  }

  void AddValues(const Element* values, int64_t count, const HeadRows& rows) {
    int64_t stride = keys_.values.stride;
    if (rows_.rows <= kRowBlock) {
      AddWeighted(scores_, rows_.rows, values, stride, count, rows_.value_dim, rows.output, ahead_);
      return;
    }
    // Every block of rows reads them: rows that lie far apart would evict each other.
    for (int64_t key = 0; key < count; ++key) {
      CopyRow(values + key * stride, rows_.value_dim, packed_ + key * rows_.value_dim);
    }
    AddWeighted(scores_, rows_.rows, packed_, rows_.value_dim, count, rows_.value_dim, rows.output,
                ahead_);
  }

  static void CopyRow(const Element* from, int64_t length, float* to) {
    const D d;
    int64_t i = 0;
    for (; i + kWidth <= length; i += kWidth) hn::StoreU(LoadF32(d, from + i), d, to + i);
    for (; i < length; ++i) to[i] = static_cast<float>(from[i]);
  }

  const KeyValueRows<Element>& keys_;
  const AttentionRows& rows_;
  const int64_t padded_;  // head_dim in whole units
  std::vector<float> memory_;
  std::vector<Element> pad_;  // keys that PackKeys could not take where they lie
  float* packed_;             // keys, or the values as floats
  float* scores_;             // [rows][kKeyLanes], then weights
  float* sums_;               // see HeadRows
  float* queries_;            // packed, of each kv_head
  SteadyPrefetch ahead_;
  bool fresh_ = false;  // some row saw nothing before
};

template <class Element>
void Attend(const KeyValueRows<Element>& keys, const AttentionRows& rows) {
  ForEachGroupOfHeads(keys, rows, kKeyLanes,
                      [](const KeyValueRows<Element>& some_keys, const AttentionRows& some_rows) {
                        RowWalk<Element>(some_keys, some_rows).Attend();
                      });
}

void AttendFloats(const KeyValueRows<float>& keys, const AttentionRows& rows) {
  Attend(keys, rows);
}
void AttendBf16s(const KeyValueRows<bf16>& keys, const AttentionRows& rows) { Attend(keys, rows); }

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
