#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "attention/tile_operands.h"
#include "kernels/tile_kernels.h"

// The last product of forward, O^T[value_dim, queries] += V^T[value_dim, keys] P^T[keys, queries].
namespace ringwise {

// Over `count` keys, the first columns of `values`; p is packed with ld kPackedStride, as many
// rows.
template <class Operand>
void AddValues(const TileKernels<Operand>& kernels, Rows<const Operand> values, int value_dim,
               const Operand* p, int count, int columns, float* output) {
  // An odd last key has no partner: the column beside it may be a key that these queries do not
  // see, or lie past the block.
  const int paired = count - count % kRowGroup<Operand>;
  if (paired > 0) {
    kernels.product(values.data, values.stride, p, kPackedStride<Operand>, value_dim, columns,
                    paired, output, kPanel, true);
  }
  if (paired == count) return;
  float last[kPanel];
  for (int column = 0; column < columns; ++column) {
    last[column] =
        static_cast<float>(p[PackedIndex<Operand>(paired, column, kPackedStride<Operand>)]);
  }
  for (int i = 0; i < value_dim; ++i) {
    const auto value = static_cast<float>(values.data[i * values.stride + paired]);
    float* to = output + i * kPanel;
    for (int column = 0; column < columns; ++column) to[column] += last[column] * value;
  }
}

// The same where pairs are hidden and all of the tile's values are finite: `visible` has a word for
// each key, a bit a column. A few keys that some columns do not see at all, as beside a causal
// diagonal, are not multiplied for those. `following` keys come after these in the tile; what p
// holds of them may be overwritten.
template <class Operand>
void AddVisibleValues(const TileKernels<Operand>& kernels, Rows<const Operand> values,
                      int value_dim, Operand* p, const uint64_t* visible, int count, int following,
                      int columns, float* output) {
  // Matrix tiles and pairs take 32 keys at a time.
  if constexpr (!kRowsArePacked<Operand>) {
    const int filled = FillDepth(kernels, p, count, count + following);
    return AddValues(kernels, values, value_dim, p, filled, columns, output);
  }
  constexpr int kKeys = 16;  // looked at together: fewer are not worth a product of their own
  struct Columns {
    int begin = 0;
    int end = 0;
    bool operator==(const Columns&) const = default;
  };
  const auto seen_from = [&](int key) -> Columns {
    uint64_t seen = 0;
    for (int i = key; i < std::min(key + kKeys, count); ++i) seen |= visible[i];
    if (seen == 0) return {};
    const int last = kPanel - 1 - std::countl_zero(seen);
    return {std::countr_zero(seen) / kLanes * kLanes,
            std::min(columns, last / kLanes * kLanes + kLanes)};
  };
  for (int key = 0; key < count;) {
    const Columns seen = seen_from(key);
    int end = key + kKeys;
    while (end < count && seen_from(end) == seen) end += kKeys;
    end = std::min(end, count);
    if (seen.begin < seen.end) {
      AddValues(kernels, {values.data + key, values.stride}, value_dim,
                p + key * kPackedStride<Operand> + seen.begin, end - key, seen.end - seen.begin,
                output + seen.begin);
    }
    key = end;
  }
}

// The same over the pairs alone whose bits are set: values of other pairs are not touched.
template <class Operand>
void AddValuesOfPairs(Rows<const Operand> values, int value_dim, const Operand* p,
                      const uint64_t* pairs, int count, float* output) {
  for (int row = 0; row < count; ++row) {
    for (uint64_t left = pairs[row]; left != 0; left &= left - 1) {
      const int column = std::countr_zero(left);
      const auto weight =
          static_cast<float>(p[PackedIndex<Operand>(row, column, kPackedStride<Operand>)]);
      for (int i = 0; i < value_dim; ++i) {
        output[i * kPanel + column] +=
            weight * static_cast<float>(values.data[i * values.stride + row]);
      }
    }
  }
}

}  // namespace ringwise
