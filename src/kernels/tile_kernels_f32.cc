// The float tile kernels, once for every instruction set that Highway knows; chosen at run time.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

#if defined(__aarch64__)  // vectors of unknown size cannot be elements of the register tile
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/tile_kernels_f32.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kLanes>;
using V = hn::Vec<D>;
constexpr int kWidth = static_cast<int>(hn::MaxLanes(D()));

// The register tile: sums of kTileRows x kTileVectors vectors, beside one row of b and one element
// of a, fill the 16 or 32 registers.
constexpr int kTileRows = 6;
#if HWY_TARGET == HWY_AVX2
constexpr int kTileVectors = 2;
#else
constexpr int kTileVectors = 4;
#endif

template <int kRows, int kVectors>
HWY_NOINLINE void TileProduct(const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b,
                              int64_t ldb, int k, float* HWY_RESTRICT c, int64_t ldc,
                              bool accumulate) {
  const D d;
  V sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::Zero(d);
  }
  for (int i = 0; i < k; ++i) {
    V right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) right[v] = hn::LoadU(d, b + v * kWidth);
    b += ldb;
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const V left = hn::Set(d, a[row * lda + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[row][v] = hn::MulAdd(left, right[v], sums[row][v]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + row * ldc + v * kWidth;
      hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, to), sums[row][v]) : sums[row][v], d, to);
    }
  }
}

template <int kVectors>
void ProductColumns(const float* a, int64_t lda, const float* b, int64_t ldb, int m, int k,
                    float* c, int64_t ldc, bool accumulate) {
  using Function = decltype(&TileProduct<1, kVectors>);
  constexpr Function kByRows[kTileRows + 1] = {
      nullptr,
      &TileProduct<1, kVectors>,
      &TileProduct<2, kVectors>,
      &TileProduct<3, kVectors>,
      &TileProduct<4, kVectors>,
      &TileProduct<5, kVectors>,
      &TileProduct<6, kVectors>,
  };
  while (m > 0) {
    // Eight rows are better cut in halves than into six and two.
    const int rows = m == kTileRows + 2 ? 4 : std::min(m, kTileRows);
    kByRows[rows](a, lda, b, ldb, k, c, ldc, accumulate);
    a += rows * lda;
    c += rows * ldc;
    m -= rows;
  }
}

void Product(const float* a, int64_t lda, const float* b, int64_t ldb, int m, int n, int k,
             float* c, int64_t ldc, bool accumulate) {
  while (n > 0) {
    const int vectors = std::min((n + kWidth - 1) / kWidth, kTileVectors);
    if (vectors == 1) {
      ProductColumns<1>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    } else if (vectors == 2 || kTileVectors == 2) {
      ProductColumns<2>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    } else if (vectors == 3) {
      ProductColumns<3>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    } else {
      ProductColumns<4>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    }
    b += vectors * kWidth;
    c += vectors * kWidth;
    n -= vectors * kWidth;
  }
}

// 2^t, relative error below 2e-7, exact for whole t; 0 or next to it below -126; NaN stays NaN. The
// minimax polynomial of degree 5 of the fraction among those that are 1 at 0 (a lone key has weight
// 1 then), times the power of the whole part.
HWY_INLINE V Exp2(V t) {
  const D d;
#if HWY_TARGET == HWY_AVX3
  const V fraction{_mm512_reduce_ps(t.raw, 0x09)};
#else
  const V lowest = hn::Set(d, -126.0f);
  t = hn::IfThenElse(hn::Lt(t, lowest), lowest, t);  // NaN survives, as it need not in Max
  const V whole = hn::Floor(t);
  const V fraction = hn::Sub(t, whole);
#endif
  V p = hn::Set(d, 1.86713016591966e-3f);
  p = hn::MulAdd(p, fraction, hn::Set(d, 9.01702977716923e-3f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 5.579991266131401e-2f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.24016447365283966f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 0.6931512951850891f));
  p = hn::MulAdd(p, fraction, hn::Set(d, 1.0f));
#if HWY_TARGET == HWY_AVX3
  return V{_mm512_scalef_ps(p.raw, t.raw)};
#else
  const hn::RebindToSigned<D> di;
  // A product, not an addition to the exponent's bits, so that NaN survives here too.
  const auto exponent = hn::Add(hn::ConvertTo(di, whole), hn::Set(di, 127));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(exponent)));
#endif
}

// The larger, and `high` where t is NaN.
HWY_INLINE V Higher(V t, V high) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  return hn::Max(t, high);  // one instruction, which returns its second operand for NaN
#else
  return hn::IfThenElse(hn::Gt(t, high), t, high);
#endif
}

// The lanes of the vector at `column` whose bits are set.
HWY_INLINE auto Lanes(int column, uint64_t bits) {
  const uint64_t shifted = bits >> column;
  return hn::LoadMaskBits(D(), reinterpret_cast<const uint8_t*>(&shifted));
}

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

void AnyScoreMaxima(const ScoreTile& tile, float* maxima) {
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
      hn::StoreU(power, d, p + row * kPanel + column);
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

float AnySoftmax(const ScoreTile& tile, const float* reference, float* p, float* sums,
                 float* weights, float* excess) {
  const auto softmax = tile.kept      ? tile.visible ? &Softmax<true, true> : &Softmax<false, true>
                            : tile.visible ? &Softmax<true, false>
                                      : &Softmax<false, false>;
  return softmax(tile, reference, p, sums, weights, excess);
}

template <bool kMasked, bool kHasTerms>
void SoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms, const float* dp,
                     const float* logsumexp, const float* delta, float* p, float* ds, int64_t ld) {
  const D d;
  [[maybe_unused]] const V dropout_factor = hn::Set(d, terms.dropout_factor);
  const V scale = hn::Set(d, tile.scale);
  for (int column = 0; column < tile.columns; column += kWidth) {
    const V minus_logsumexp = hn::Neg(hn::LoadU(d, logsumexp + column));
    const V delta_v = hn::LoadU(d, delta + column);
    const auto one = [&](int row) HWY_ATTR {
      const V score = hn::LoadU(d, tile.scores + row * kPanel + column);
      V dp_v = hn::LoadU(d, dp + row * kPanel + column);
      V power = Exp2(hn::MulAdd(score, scale, minus_logsumexp));
      if constexpr (kHasTerms) {
        if (tile.kept != nullptr) {
          dp_v = hn::IfThenElseZero(Lanes(column, tile.kept[row]), hn::Mul(dp_v, dropout_factor));
        }
      }
      V gradient = hn::Mul(power, hn::Sub(dp_v, delta_v));
      if constexpr (kMasked) {
        const auto lanes = Lanes(column, tile.visible[row]);
        power = hn::IfThenElseZero(lanes, power);
        gradient = hn::IfThenElseZero(lanes, gradient);
      }
      if constexpr (kHasTerms) {
        const int at = row * kPanel + column;
        if (terms.unsloped != nullptr) hn::StoreU(gradient, d, terms.unsloped + at);
        if (terms.slopes != nullptr) gradient = hn::Mul(gradient, hn::LoadU(d, terms.slopes + at));
        if (tile.kept != nullptr) power = hn::IfThenElseZero(Lanes(column, tile.kept[row]), power);
      }
      hn::StoreU(power, d, p + row * ld + column);
      hn::StoreU(gradient, d, ds + row * ld + column);
    };
    int row = 0;
    for (; row + 4 <= tile.rows; row += 4) {
      one(row);
      one(row + 1);
      one(row + 2);
      one(row + 3);
    }
    for (; row < tile.rows; ++row) one(row);
  }
}

void AnySoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms, const float* dp,
                        const float* logsumexp, const float* delta, float* p, float* ds, float*,
                        int64_t ld) {
  const bool has_terms =
      tile.kept != nullptr || terms.slopes != nullptr || terms.unsloped != nullptr;
  const auto gradient =
      has_terms      ? tile.visible ? &SoftmaxGradient<true, true> : &SoftmaxGradient<false, true>
           : tile.visible ? &SoftmaxGradient<true, false>
                     : &SoftmaxGradient<false, false>;
  gradient(tile, terms, dp, logsumexp, delta, p, ds, ld);
}

void ScaleColumns(const float* factors, int rows, float* matrix) {
  const D d;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < kPanel; column += kWidth) {
      float* at = matrix + row * kPanel + column;
      hn::StoreU(hn::Mul(hn::LoadU(d, factors + column), hn::LoadU(d, at)), d, at);
    }
  }
}

void PackTransposed(const float* source, int64_t stride, int rows, int length, float* packed) {
  Transpose(source, stride, rows, length, packed, kPanel);
  if (rows == kPanel) return;
  for (int i = 0; i < length; ++i)
    std::fill(packed + i * kPanel + rows, packed + (i + 1) * kPanel, 0.0f);
}

void PackRows(const float* source, int64_t stride, int rows, int length, int64_t panel_stride,
              float* packed) {
  for (int begin = 0; begin < length; begin += kPanel) {
    const int columns = std::min(kPanel, length - begin);
    for (int row = 0; row < rows; ++row) {
      float* to = packed + row * kPanel;
      std::copy_n(source + row * stride + begin, columns, to);
      std::fill(to + columns, to + kPanel, 0.0f);
    }
    packed += panel_stride;
  }
}

const TileKernels<float>* Kernels() {
  static constexpr TileKernels<float> kKernels = {
      .product = &Product,
      .score_maxima = &AnyScoreMaxima,
      .softmax = &AnySoftmax,
      .softmax_gradient = &AnySoftmaxGradient,
      .scale_columns = &ScaleColumns,
      .pack_transposed = &PackTransposed,
      .pack_rows = &PackRows,
  };
  return &kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(Kernels);

const TileKernels<float>& FloatTileKernels() { return *HWY_DYNAMIC_DISPATCH(Kernels)(); }

}  // namespace ringwise
#endif
