// The two products of attention for a few rows, once a target: see row_attention.cc.
#if defined(RINGWISE_KERNELS_ROW_PRODUCTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_ROW_PRODUCTS_INL_H_
#undef RINGWISE_KERNELS_ROW_PRODUCTS_INL_H_
#else
#define RINGWISE_KERNELS_ROW_PRODUCTS_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// Rows whose products are made at once: a loaded key or value serves them all.
inline constexpr int kRowBlock = 4;
// Sums of a block stay in registers, 16 or 32.
#if HWY_TARGET == HWY_AVX2
inline constexpr int kKeyBlock = 2;
#else
inline constexpr int kKeyBlock = 4;
#endif

// Cuts `count` into kMost, kMost / 2 .. 1: calls body(std::integral_constant<int, n>(), first).
template <int kMost, class Body>
HWY_INLINE void ForEachBlock(int64_t count, const Body& body, int64_t first = 0) {
  for (; first + kMost <= count; first += kMost) {
    body(std::integral_constant<int, kMost>(), first);
  }
  if constexpr (kMost > 1) ForEachBlock<kMost / 2>(count, body, first);
}

// A part of a vector; zeros beyond.
template <class Element>
HWY_INLINE V LoadPart(const Element* from, int64_t count) {
  Element part[kWidth] = {};
  std::copy_n(from, count, part);
  return LoadF32(D(), part);
}

// The sums of neighbouring lanes: of `low` in the lower half.
HWY_INLINE V SumPairs(V low, [[maybe_unused]] V high) {
#if HWY_TARGET == HWY_SCALAR
  return low;  // which has no neighbours
#else
  const D d;
  return hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low));
#endif
}

// sums[row][key], by lanes, of the products of kRows rows and kKeys keys.
template <int kRows, int kKeys, class Element>
HWY_INLINE void MultiplyRows(const float* HWY_RESTRICT query, const Element* HWY_RESTRICT keys,
                             int64_t stride, int64_t length, V (&sums)[kRows][kKeys]) {
  const D d;
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int key = 0; key < kKeys; ++key) sums[row][key] = hn::Zero(d);
  }
  const auto step = [&](const auto& load, int64_t i) HWY_ATTR {
    V right[kKeys];
#pragma GCC unroll 8
    for (int key = 0; key < kKeys; ++key) right[key] = load(keys + key * stride + i);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const V left = load(query + row * length + i);
#pragma GCC unroll 8
      for (int key = 0; key < kKeys; ++key) {
        sums[row][key] = hn::MulAdd(left, right[key], sums[row][key]);
      }
    }
  };
  int64_t i = 0;
  for (; i + kWidth <= length; i += kWidth) {
    step([](const auto* from) HWY_ATTR { return LoadF32(D(), from); }, i);
  }
  if (i < length) {
    step([&](const auto* from) HWY_ATTR { return LoadPart(from, length - i); }, i);
  }
}

// Products of pairs by lanes, whose lanes are then summed for kWidth pairs at once.
class LaneSums {
 public:
  // Floats of memory, in whole vectors, for calls of at most Take(most).
  static int64_t FloatsFor(int64_t most) { return (most + 2 * kWidth) * kWidth; }

  // Sums go to `sums` in order, in whole vectors.
  LaneSums(float* memory, float* sums) : memory_(memory), sums_(sums) {}

  // Where the lanes of the next `pairs` pairs belong; to be written before the next call.
  HWY_INLINE float* Take(int64_t pairs) {
    if (pending_ >= kWidth) AddLanes();
    float* to = memory_ + pending_ * kWidth;
    pending_ += pairs;
    return to;
  }

  // Lanes past the last pair give 0.
  void Finish() {
    const int64_t past = (kWidth - pending_ % kWidth) % kWidth;
    std::fill_n(memory_ + pending_ * kWidth, past * kWidth, 0.0f);
    pending_ += past;
    AddLanes();
  }

 private:
  HWY_NOINLINE void AddLanes() {
    const D d;
    const float* from = memory_;
    for (; pending_ >= kWidth; pending_ -= kWidth) {
      V sums[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) sums[i] = hn::Load(d, from + i * kWidth);
#pragma GCC unroll 8
      for (int count = kWidth; count > 1; count /= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < count / 2; ++i) sums[i] = SumPairs(sums[2 * i], sums[2 * i + 1]);
      }
      hn::StoreU(sums[0], d, sums_);
      sums_ += kWidth;
      from += kWidth * kWidth;
    }
    for (int64_t i = 0; i < pending_; ++i) {
      hn::Store(hn::Load(d, from + i * kWidth), d, memory_ + i * kWidth);
    }
  }

  float* memory_;
  float* sums_;
  int64_t pending_ = 0;  // pairs
};

// One position and one row a kv_head: lanes[head] of its products.
template <class Element>
HWY_NOINLINE void MultiplyPosition(const float* HWY_RESTRICT query,
                                   const Element* HWY_RESTRICT keys, int64_t head_stride,
                                   int64_t heads, int64_t length, float* HWY_RESTRICT lanes) {
  for (int64_t head = 0; head < heads; ++head) {
    V sums[1][1];
    MultiplyRows(query, keys, 0, length, sums);
    hn::Store(sums[0][0], D(), lanes);
    lanes += kWidth;
    query += length;
    keys += head_stride;
  }
}

// The same: output[head] += weights[head] values[head].
template <class Element>
HWY_NOINLINE void AddPosition(const float* HWY_RESTRICT weights, const Element* HWY_RESTRICT values,
                              int64_t head_stride, int64_t heads, int64_t length,
                              float* HWY_RESTRICT output) {
  const D d;
  for (int64_t head = 0; head < heads; ++head) {
    const V weight = hn::Set(d, weights[head]);
    int64_t i = 0;
    for (; i + kWidth <= length; i += kWidth) {
      hn::StoreU(hn::MulAdd(weight, LoadF32(d, values + i), hn::LoadU(d, output + i)), d,
                 output + i);
    }
    for (; i < length; ++i) output[i] += weights[head] * static_cast<float>(values[i]);
    output += length;
    values += head_stride;
  }
}

// Keys of one kv_head: lanes[row][key] of the products with some rows, keys `stride` apart.
template <class Element>
HWY_NOINLINE void MultiplyKeys(const float* query, int64_t rows, const Element* keys,
                               int64_t stride, int64_t count, int64_t length, float* lanes) {
  ForEachBlock<kRowBlock>(rows, [&](auto row_block, int64_t row) HWY_ATTR {
    ForEachBlock<kKeyBlock>(count, [&](auto key_block, int64_t key) HWY_ATTR {
      V sums[row_block.value][key_block.value];
      MultiplyRows(query + row * length, keys + key * stride, stride, length, sums);
#pragma GCC unroll 8
      for (int r = 0; r < row_block.value; ++r) {
#pragma GCC unroll 8
        for (int k = 0; k < key_block.value; ++k) {
          hn::Store(sums[r][k], D(), lanes + ((row + r) * count + key + k) * kWidth);
        }
      }
    });
  });
}

// output[row] += the sum over `count` keys of weights[row][key] values[key], in kVectors columns.
// The terms of a call add up by themselves first: so rounding grows with the root of the calls, not
// of the keys.
template <int kRows, int kVectors, class Element>
HWY_INLINE void AddColumns(const float* HWY_RESTRICT weights, const Element* HWY_RESTRICT values,
                           int64_t stride, int64_t count, int64_t length,
                           float* HWY_RESTRICT output) {
  const D d;
  V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::Zero(d);
  }
  for (int64_t key = 0; key < count; ++key) {
    V right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) right[v] = LoadF32(d, values + key * stride + v * kWidth);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const V weight = hn::Set(d, weights[row * count + key]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::MulAdd(weight, right[v], sums[row][v]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = output + row * length + v * kWidth;
      hn::StoreU(hn::Add(hn::LoadU(d, to), sums[row][v]), d, to);
    }
  }
}

// The same over all columns: weights [rows][count], values in rows `stride` apart, output
// [rows][length].
template <class Element>
HWY_NOINLINE void AddWeighted(const float* weights, int64_t rows, const Element* values,
                              int64_t stride, int64_t count, int64_t length, float* output) {
  ForEachBlock<kRowBlock>(rows, [&](auto row_block, int64_t row) HWY_ATTR {
    constexpr int kRows = row_block.value;
    const float* own = weights + row * count;
    float* to = output + row * length;
    ForEachBlock<kKeyBlock>(length / kWidth, [&](auto vectors, int64_t first) HWY_ATTR {
      const int64_t i = first * kWidth;
      AddColumns<kRows, vectors.value>(own, values + i, stride, count, length, to + i);
    });
    for (int64_t i = length / kWidth * kWidth; i < length; ++i) {
      for (int r = 0; r < kRows; ++r) {
        float sum = 0;
        for (int64_t key = 0; key < count; ++key) {
          sum += own[r * count + key] * static_cast<float>(values[key * stride + i]);
        }
        to[r * length + i] += sum;
      }
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif  // per target
