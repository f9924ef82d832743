// What forward does to a tile of scores, once a target: see tile_kernels_f32.cc.
#if defined(RINGWISE_KERNELS_SOFTMAX_F32_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGWISE_KERNELS_SOFTMAX_F32_INL_H_
#undef RINGWISE_KERNELS_SOFTMAX_F32_INL_H_
#else
#define RINGWISE_KERNELS_SOFTMAX_F32_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/register_tiles.h"
#include "kernels/tile_product_f32-inl.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

template <bool kMasked>
void ScoreMaxima(const ScoreTile& tile, float* maxima) {
  const D d;
  const V lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const V scale = hn::Set(d, tile.scale);
  for (int column = 0; column < tile.columns; column += kWidth) {
    V high = lowest;
    for (int row = 0; row < tile.rows; ++row) {
      V t = hn::Mul(scale, hn::LoadU(d, tile.scores + row * kPanel + column));
      if constexpr (kMasked) t = hn::IfThenElse(Lanes(column, tile.visible[row]), t, lowest);
      high = Higher(t, high);
    }
    hn::StoreU(high, d, maxima + column);
  }
}

inline void AnyScoreMaxima(const ScoreTile& tile, float* maxima) {
  tile.visible ? ScoreMaxima<true>(tile, maxima) : ScoreMaxima<false>(tile, maxima);
}

template <bool kMasked, bool kDrops>
float Softmax(const ScoreTile& tile, const float* reference, float* p, float* sums, float* weights,
              float* excess) {
  const D d;
  const V lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const V scale = hn::Set(d, tile.scale);
  V highest = lowest;
  for (int column = 0; column < tile.columns; column += kWidth) {
    const V minus_reference = hn::Neg(hn::LoadU(d, reference + column));
    V high = lowest;
    V sum = hn::Zero(d);
    const auto one = [&](int row) HWY_ATTR {
      const V score = hn::LoadU(d, tile.scores + row * kPanel + column);
      V t = hn::MulAdd(score, scale, minus_reference);
      V power;
      if constexpr (kMasked) {
        const auto lanes = Lanes(column, tile.visible[row]);
        t = hn::IfThenElse(lanes, t, lowest);
        power = hn::IfThenElseZero(lanes, Exp2(t));
      } else {
        power = Exp2(t);
      }
      high = Higher(t, high);
      sum = hn::Add(sum, power);
      if constexpr (kDrops) power = hn::IfThenElseZero(Lanes(column, tile.kept[row]), power);
      hn::StoreU(power, d, p + row * kPackedStride<float> + column);
    };
    int row = 0;
    for (; row + 4 <= tile.rows; row += 4) {
      one(row);
      one(row + 1);
      one(row + 2);
      one(row + 3);
    }
    for (; row < tile.rows; ++row) one(row);
    hn::StoreU(sum, d, sums + column);
    hn::StoreU(sum, d, weights + column);
    hn::StoreU(high, d, excess + column);
    highest = Higher(high, highest);
  }
  return hn::GetLane(hn::MaxOfLanes(d, highest));
}

inline float AnySoftmax(const ScoreTile& tile, const float* reference, float* p, float* sums,
                        float* weights, float* excess) {
  const auto softmax = tile.kept      ? tile.visible ? &Softmax<true, true> : &Softmax<false, true>
                            : tile.visible ? &Softmax<true, false>
                                      : &Softmax<false, false>;
  return softmax(tile, reference, p, sums, weights, excess);
}

// What ProductSoftmax reads and writes of one register tile of columns. Passed by value: through a
// reference it would be read again after every store, for all the compiler knows.
struct SoftmaxTile {
  const float* query;
  const float* reference;
  float* p;
  float* sums;  // so far
  int column;
};

template <int kRows, int kVectors, bool kMasked, bool kDrops>
HWY_NOINLINE void SoftmaxOfProduct(const float* keys, int64_t stride, int k, const ScoreTile& tile,
                                   int first, SoftmaxTile at) {
  const D d;
  V scores[kRows][kVectors];
  MultiplyTile(keys, stride, at.query, kPackedStride<float>, k, scores);
  const V scale = hn::Set(d, tile.scale);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const int column = v * kWidth;
    const V minus_reference = hn::Neg(hn::LoadU(d, at.reference + column));
    V sum = hn::LoadU(d, at.sums + column);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      V power = Exp2(hn::MulAdd(scores[row][v], scale, minus_reference));
      if constexpr (kMasked) {
        power = hn::IfThenElseZero(Lanes(at.column + column, tile.visible[first + row]), power);
      }
      sum = hn::Add(sum, power);
      if constexpr (kDrops) {
        power = hn::IfThenElseZero(Lanes(at.column + column, tile.kept[first + row]), power);
      }
      hn::StoreU(power, d, at.p + (first + row) * kPackedStride<float> + column);
    }
    hn::StoreU(sum, d, at.sums + column);
  }
}

// The same of a register tile with pairs that are hidden: columns that no row of it sees, as beside
// a causal diagonal, are not multiplied. Of the others the first to the last, whole vectors.
template <bool kDrops>
void SoftmaxOfVisible(const float* keys, int64_t stride, int k, const ScoreTile& tile, int first,
                      SoftmaxTile at) {
  uint64_t seen = 0;
  for (int row = first; row < first + kTileRows; ++row) seen |= tile.visible[row];
  const auto sees = [&](int v) {
    return (seen >> (at.column + v * kWidth) & ((uint64_t{1} << kWidth) - 1)) != 0;
  };
  int begin = 0;
  int end = kTileVectors;
  while (begin < end && !sees(begin)) ++begin;
  while (begin < end && !sees(end - 1)) --end;
  if (end - begin < kTileVectors) {
    for (int row = first; row < first + kTileRows; ++row) {
      std::fill_n(at.p + row * kPackedStride<float>, kTileVectors * kWidth, 0.0f);
    }
  }
  const int column = begin * kWidth;
  at.query += column;
  at.reference += column;
  at.p += column;
  at.sums += column;
  at.column += column;
  switch (end - begin) {
    case 0:
      return;
    case 1:
      return SoftmaxOfProduct<kTileRows, 1, true, kDrops>(keys, stride, k, tile, first, at);
    case 2:
      return SoftmaxOfProduct<kTileRows, 2, true, kDrops>(keys, stride, k, tile, first, at);
    case 3:
      return SoftmaxOfProduct<kTileRows, 3, true, kDrops>(keys, stride, k, tile, first, at);
    default:
      return SoftmaxOfProduct<kTileRows, kTileVectors, true, kDrops>(keys, stride, k, tile, first,
                                                                     at);
  }
}

template <bool kMasked, bool kDrops>
void ProductSoftmax(const float* keys, int64_t stride, int k, const ScoreTile& tile,
                    const SoftmaxTile& at, LinesAhead& ahead) {
  ForEachRegisterTile(tile.rows, [&](auto rows, int first) {
    const float* from = keys + first * stride;
    if constexpr (kMasked && rows.value == kTileRows) {
      SoftmaxOfVisible<kDrops>(from, stride, k, tile, first, at);
    } else {
      SoftmaxOfProduct<rows.value, kTileVectors, kMasked, kDrops>(from, stride, k, tile, first, at);
    }
    ahead.Fetch();
  });
}

inline void AnyProductSoftmax(const float* keys, int64_t stride, const float* query, int k,
                              const ScoreTile& tile, const float* reference, float* p, float* sums,
                              float* weights, LinesAhead& ahead) {
  const auto softmax =
      tile.kept      ? tile.visible ? &ProductSoftmax<true, true> : &ProductSoftmax<false, true>
           : tile.visible ? &ProductSoftmax<true, false>
                     : &ProductSoftmax<false, false>;
  std::fill_n(sums, kPanel, 0.0f);
  for (int column = 0; column < kPanel; column += kTileVectors * kWidth) {
    softmax(keys, stride, k, tile,
            {query + column, reference + column, p + column, sums + column, column}, ahead);
  }
  std::copy_n(sums, kPanel, weights);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#endif  // per target
