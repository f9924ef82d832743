#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "attention/tiling.h"
#include "kernels/all_finite.h"
#include "kernels/tile_kernels.h"
#include "ringwise/mask.h"
#include "ringwise/tensor.h"

// How tensors of the storage type become factors of tile products. The two types differ where the
// CPU has no bf16 products: bf16 rows are then widened to float as they are used.
namespace ringwise {

template <class Storage, class Operand>
inline constexpr bool kWidens = !std::is_same_v<Storage, Operand>;

// A matrix in rows, of const elements where it is only read.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
};

// Memory that holds elements of this type: const if they are.
template <class Element>
using BytesOf = std::conditional_t<std::is_const_v<Element>, const std::byte, std::byte>;

// `from` as factors: copied, or widened.
template <class Storage, class Operand>
void Convert(const Storage* from, int64_t count, Operand* to) {
  if constexpr (kWidens<Storage, Operand>) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Operand>(from[i]);
  } else {
    std::copy_n(from, count, to);
  }
}

// The rows as factors: themselves, or widened into `scratch` (`length` apart).
template <class Operand, class Storage>
Rows<const Operand> AsOperand(Rows<const Storage> rows, int64_t count, int64_t length,
                              Operand* scratch) {
  if constexpr (kWidens<Storage, Operand>) {
    for (int64_t row = 0; row < count; ++row) {
      Convert(rows.data + row * rows.stride, length, scratch + row * length);
    }
    return {scratch, length};
  } else {
    return rows;
  }
}

// Hidden probabilities are 0, and 0 times an infinite or NaN element is NaN: partial tiles that
// hold one are multiplied pair by visible pair.
template <class T>
bool AllFinite(Rows<const T> rows, int64_t count, int64_t length) {
  return AllFinite(rows.data, rows.stride, count, length);
}

// Lets zeros follow the first `rows` rows of a packed panel until there are as many as products
// like (TileKernels::product_depth), or `most`. Returns how many there are then: as many as before,
// or more. An odd last row has a partner of zeros, before and after.
template <class Operand>
int FillDepth(const TileKernels<Operand>& kernels, Operand* packed, int rows, int most) {
  const auto filled = std::min(static_cast<int>(RoundUp(rows, kernels.product_depth)), most);
  if (filled <= rows) return rows;
  const int64_t begin = RoundUp(rows, kRowGroup<Operand>);
  const int64_t end = RoundUp(filled, kRowGroup<Operand>);
  std::fill(packed + begin * kPackedStride<Operand>, packed + end * kPackedStride<Operand>,
            Operand{});
  return filled;
}

// Rows of one batch and head of a tensor [batch, length, heads, head_dim].
template <class T>
Rows<T> HeadRows(const ConstTensorView& view, int64_t batch, int64_t row, int64_t head) {
  return {view.at<std::remove_const_t<T>>(batch, row, head), view.strides[1]};
}

// Writes which queries see each key of `keys`, a bit a query, and returns the keys between the
// first and the last that any query sees.
struct VisibleRows {
  int begin = 0;
  int end = 0;
};
inline VisibleRows FindVisible(const MaskPlane& plane, const PositionRun& queries,
                               const PositionRun& keys, uint64_t* bits) {
  VisibleBits(plane, queries, keys, {bits, static_cast<size_t>(keys.count)});
  VisibleRows rows;
  for (int row = 0; row < keys.count; ++row) {
    if (bits[row] == 0) continue;
    if (rows.end == 0) rows.begin = row;
    rows.end = row + 1;
  }
  return rows;
}

// Calls the progress hook now and then: from member 0, every so many multiplications.
class ProgressCounter {
 public:
  ProgressCounter(const std::function<void()>& hook, int thread)
      : hook_(thread == 0 && hook ? &hook : nullptr) {}

  void Worked(int64_t multiplications) {
    if (hook_ == nullptr) return;
    work_ += multiplications;
    if (work_ < kInterval) return;
    work_ = 0;
    (*hook_)();
  }

 private:
  static constexpr int64_t kInterval = 8'000'000;  // a fraction of a millisecond
  const std::function<void()>* hook_;
  int64_t work_ = 0;
};

}  // namespace ringwise
