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
#include "kernels/steady_prefetch.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// Rows whose products are made at once, and the vectors of their sums, which stay in registers: 16
// or 32.
#if HWY_TARGET == HWY_AVX2
inline constexpr int kRowBlock = 4;
inline constexpr int kSumVectors = 8;
#else
inline constexpr int kRowBlock = 8;
inline constexpr int kSumVectors = 16;
#endif

// Positions whose scores are made at once: the lanes of two vectors, or of more narrow ones.
inline constexpr int64_t kKeyLanes = 32;

// Cuts `count` into kMost, kMost / 2 .. 1: calls body(std::integral_constant<int, n>(), first).
template <int kMost, class Body>
HWY_INLINE void ForEachBlock(int64_t count, const Body& body, int64_t first = 0) {
  for (; first + kMost <= count; first += kMost) {
    body(std::integral_constant<int, kMost>(), first);
  }
  if constexpr (kMost > 1) ForEachBlock<kMost / 2>(count, body, first);
}

using WordD = hn::Rebind<uint32_t, D>;
using WordV = hn::Vec<WordD>;

// Work as SteadyPrefetch is told of it: vector operations on the busiest units.
inline constexpr int64_t kPackWork = 20;

// Words that LoadColumns takes of a row, and what PackKeys takes of a head.
inline constexpr int kColumns = 4;
template <class Element>
inline constexpr int64_t kPackedUnit = kColumns * sizeof(uint32_t) / sizeof(Element);

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void LoadColumns(const char* rows, int64_t /*stride*/, WordV (&columns)[kColumns]) {
  const auto* words = reinterpret_cast<const uint32_t*>(rows);
  for (int i = 0; i < kColumns; ++i) columns[i] = hn::LoadU(WordD(), words + i);
}
#else
// kWords / 4 rows' first words; between those rows lie three others.
template <int kWords>
HWY_INLINE auto LoadEveryFourth(const char* rows, int64_t stride) {
  const hn::CappedTag<uint32_t, kWords> d;
  if constexpr (kWords == kColumns) {
    return hn::LoadU(d, reinterpret_cast<const uint32_t*>(rows));
  } else {
    constexpr int kHalf = kWords / 2;
    return hn::Combine(d, LoadEveryFourth<kHalf>(rows + kHalf * stride, stride),
                       LoadEveryFourth<kHalf>(rows, stride));
  }
}

// columns[i] = word i of each of kWidth rows, `stride` bytes apart.
HWY_INLINE void LoadColumns(const char* rows, int64_t stride, WordV (&columns)[kColumns]) {
  const WordD d;
  const hn::Repartition<uint64_t, WordD> pairs;
  const WordV row0 = LoadEveryFourth<kWidth>(rows, stride);
  const WordV row1 = LoadEveryFourth<kWidth>(rows + stride, stride);
  const WordV row2 = LoadEveryFourth<kWidth>(rows + 2 * stride, stride);
  const WordV row3 = LoadEveryFourth<kWidth>(rows + 3 * stride, stride);
  const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, row0, row1));
  const auto low23 = hn::BitCast(pairs, hn::InterleaveLower(d, row2, row3));
  const auto high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, row0, row1));
  const auto high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, row2, row3));
  columns[0] = hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23));
  columns[1] = hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23));
  columns[2] = hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23));
  columns[3] = hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23));
}
#endif

// Word i of some keys becomes the lanes of row i, or of rows 2 i and 2 i + 1.
HWY_INLINE void StoreColumn(const float* /*element*/, WordV column, int64_t i, float* packed) {
  const D d;
  hn::StoreU(hn::BitCast(d, column), d, packed + i * kKeyLanes);
}
HWY_INLINE void StoreColumn(const bf16* /*element*/, WordV column, int64_t i, float* packed) {
  const D d;
  const WordD words;
  const V even = hn::BitCast(d, hn::ShiftLeft<16>(column));
  const V odd = hn::BitCast(d, hn::And(column, hn::Set(words, 0xffff0000u)));
  hn::StoreU(even, d, packed + 2 * i * kKeyLanes);
  hn::StoreU(odd, d, packed + (2 * i + 1) * kKeyLanes);
}

// packed[i][kKeyLanes] = element i of as many keys `stride` apart, whose length is a multiple of
// kPackedUnit.
template <class Element>
HWY_NOINLINE void PackKeys(const Element* keys, int64_t stride, int64_t length, float* packed,
                           SteadyPrefetch& ahead) {
  const int64_t stride_bytes = stride * static_cast<int64_t>(sizeof(Element));
  const int64_t words = length * static_cast<int64_t>(sizeof(Element) / 2) / 2;
  for (int64_t key = 0; key < kKeyLanes; key += kWidth) {
    const char* from = reinterpret_cast<const char*>(keys) + key * stride_bytes;
    for (int64_t word = 0; word < words; word += kColumns) {
      WordV columns[kColumns];
      LoadColumns(from + word * static_cast<int64_t>(sizeof(uint32_t)), stride_bytes, columns);
#pragma GCC unroll 4
      for (int i = 0; i < kColumns; ++i) StoreColumn(keys, columns[i], word + i, packed + key);
      ahead.Worked(kPackWork);
    }
  }
}

// queries[i][kRows] = element i of kRows queries that lie side by side.
template <int kRows>
void PackQueries(const float* query, int64_t length, float* queries) {
  for (int64_t i = 0; i < length; ++i) {
    for (int row = 0; row < kRows; ++row) queries[i * kRows + row] = query[row * length + i];
  }
}

// scores[row][kKeyLanes] of packed queries and keys.
template <int kRows>
HWY_NOINLINE void MultiplyPacked(const float* HWY_RESTRICT queries, int64_t length,
                                 const float* HWY_RESTRICT packed, float* HWY_RESTRICT scores,
                                 SteadyPrefetch& ahead) {
  const D d;
  constexpr int kVectors = kKeyLanes / kWidth > 1 ? 2 : 1;
  constexpr int kChains = std::max(1, 4 / kRows);  // or each sum would wait for the one before
  constexpr int kStep = 4;
  for (int64_t key = 0; key < kKeyLanes; key += kVectors * kWidth) {
    V sums[kChains][kRows][kVectors];
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[chain][row][v] = hn::Zero(d);
      }
    }
    const auto add = [&](int64_t i, V(&to)[kRows][kVectors]) HWY_ATTR {
      V right[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        right[v] = hn::LoadU(d, packed + i * kKeyLanes + key + v * kWidth);
      }
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const V left = hn::Set(d, queries[i * kRows + row]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) to[row][v] = hn::MulAdd(left, right[v], to[row][v]);
      }
    };
    int64_t i = 0;
    for (; i + kStep <= length; i += kStep) {
#pragma GCC unroll 4
      for (int j = 0; j < kStep; ++j) add(i + j, sums[j % kChains]);
      ahead.Worked(kStep * kRows * kVectors);
    }
    for (; i < length; ++i) add(i, sums[0]);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        V sum = sums[0][row][v];
#pragma GCC unroll 4
        for (int chain = 1; chain < kChains; ++chain) sum = hn::Add(sum, sums[chain][row][v]);
        hn::StoreU(sum, d, scores + row * kKeyLanes + key + v * kWidth);
      }
    }
  }
}

// output[row] += the sum over `count` keys of weights[row][key] values[key], in kVectors columns.
// The terms of a call add up by themselves first: so rounding grows with the root of the calls, not
// of the keys.
template <int kRows, int kVectors, class Element>
HWY_NOINLINE void AddColumns(const float* HWY_RESTRICT weights, const Element* HWY_RESTRICT values,
                             int64_t stride, int64_t count, int64_t length,
                             float* HWY_RESTRICT output, SteadyPrefetch& ahead) {
  const D d;
  V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::Zero(d);
    // The outputs of many rows are not in the nearest cache.
    for (int v = 0; v < kVectors; v += kLanes / kWidth) {
      __builtin_prefetch(output + row * length + v * kWidth, 1, 3);
    }
  }
  for (int64_t key = 0; key < count; ++key) {
    V right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) right[v] = LoadF32(d, values + v * kWidth);
    values += stride;
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const V weight = hn::Set(d, weights[row * kKeyLanes + key]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::MulAdd(weight, right[v], sums[row][v]);
    }
    ahead.Worked((kRows + 1) * kVectors);
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

// The same over all columns: weights [rows][kKeyLanes], values in rows `stride` apart, output
// [rows][length].
template <class Element>
void AddWeighted(const float* weights, int64_t rows, const Element* values, int64_t stride,
                 int64_t count, int64_t length, float* output, SteadyPrefetch& ahead) {
  ForEachBlock<kRowBlock>(rows, [&](auto row_block, int64_t row) HWY_ATTR {
    constexpr int kRows = row_block.value;
    constexpr int kVectors = std::min(8, kSumVectors / kRows);
    const float* own = weights + row * kKeyLanes;
    float* to = output + row * length;
    ForEachBlock<kVectors>(length / kWidth, [&](auto vectors, int64_t first) HWY_ATTR {
      const int64_t i = first * kWidth;
      AddColumns<kRows, vectors.value>(own, values + i, stride, count, length, to + i, ahead);
    });
    for (int64_t i = length / kWidth * kWidth; i < length; ++i) {
      for (int r = 0; r < kRows; ++r) {
        float sum = 0;
        for (int64_t key = 0; key < count; ++key) {
          sum += own[r * kKeyLanes + key] * static_cast<float>(values[key * stride + i]);
        }
        to[r * length + i] += sum;
      }
    }
  });
}

// All of it for kKeyLanes positions of a kv_head.
template <class Element>
int64_t WorkOfKeys(int64_t rows, int64_t head_dim, int64_t value_dim) {
  const int64_t packing = head_dim / kPackedUnit<Element> * kPackWork;
  const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  return kKeyLanes / kWidth * (packing + rows * head_dim) +
         kKeyLanes * (rows + row_blocks) * value_dim / kWidth;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif  // per target
