#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels/row_attention.h"
#include "kernels/steady_prefetch.h"

// How attention of a few rows goes over memory that is read once.
namespace ringwise {

// Keys, or values, of a batch: two batches fit every second cache known. Prefetchers work by pages
// of 4 KiB, so that a batch is many of those.
inline constexpr int64_t kBatchBytes = int64_t{128} << 10;

// Of one position, its keys or its values, the larger of the two.
template <class Element>
int64_t PositionBytes(const AttentionRows& rows, int64_t kv_heads) {
  return kv_heads * std::max(rows.head_dim, rows.value_dim) * static_cast<int64_t>(sizeof(Element));
}

// Calls attend(keys, rows) with as many kv_heads at a time as lie side by side and fit a batch of
// at least `step` positions.
template <class Element, class Attend>
void ForEachGroupOfHeads(const KeyValueRows<Element>& keys, const AttentionRows& rows, int64_t step,
                         const Attend& attend) {
  const bool dense =
      keys.keys.head_stride == rows.head_dim && keys.values.head_stride == rows.value_dim;
  const int64_t fit = kBatchBytes / (step * PositionBytes<Element>(rows, 1));
  const int64_t at_once = dense ? std::max<int64_t>(1, fit) : 1;
  for (int64_t head = 0; head < rows.kv_heads; head += at_once) {
    KeyValueRows<Element> own_keys = keys;
    own_keys.keys.data += head * keys.keys.head_stride;
    own_keys.values.data += head * keys.values.head_stride;
    AttentionRows own = rows;
    own.kv_heads = std::min(at_once, rows.kv_heads - head);
    own.query += head * rows.rows * rows.head_dim;
    own.output += head * rows.rows * rows.value_dim;
    own.row_max += head * rows.rows;
    own.row_sum += head * rows.rows;
    if (rows.row_weight != nullptr) own.row_weight += head * rows.rows;
    attend(own_keys, own);
  }
}

// Calls attend(head, begin, count) for every kv_head and up to `step` positions at a time.
// Positions come in batches: while one is attended, head by head, `ahead` brings the next to the
// second cache in the order of memory. The rows of a head alone lie apart, and prefetchers lose
// them. `work` is what attend tells `ahead` of `step` positions.
template <class Element, class Attend>
void ForEachBatch(const KeyValueRows<Element>& keys, const AttentionRows& rows, int64_t step,
                  int64_t work, SteadyPrefetch& ahead, const Attend& attend) {
  const auto prefetch = [&](int64_t begin, int64_t end, int64_t meanwhile) {
    const auto area = [&](const typename KeyValueRows<Element>::Matrix& matrix, int64_t width) {
      constexpr auto kBytes = static_cast<int64_t>(sizeof(Element));
      return SteadyPrefetch::Area{matrix.data + begin * matrix.stride, matrix.stride * kBytes,
                                  end - begin, rows.kv_heads * width * kBytes};
    };
    ahead.Start(area(keys.keys, rows.head_dim), area(keys.values, rows.value_dim),
                meanwhile * rows.kv_heads * work / step);
  };
  const int64_t most =
      std::max<int64_t>(1, kBatchBytes / (step * PositionBytes<Element>(rows, rows.kv_heads)));
  // The first is waited for, and so it is small.
  int64_t begin = 0;
  int64_t end = std::min(step, keys.count);
  prefetch(begin, end, 0);
  while (begin < end) {
    ahead.Finish();
    const int64_t next = std::min(end + std::min(2 * (end - begin), most * step), keys.count);
    prefetch(end, next, end - begin);
    for (int64_t head = 0; head < rows.kv_heads; ++head) {
      for (int64_t key = begin; key < end; key += step) {
        attend(head, key, std::min(step, end - key));
      }
    }
    begin = std::exchange(end, next);
  }
}

}  // namespace ringwise
