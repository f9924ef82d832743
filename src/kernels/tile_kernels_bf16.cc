// The bf16 tile kernels for CPUs with AVX-512 BF16 products, which Highway has no operation for.
// Compiled for that instruction set whatever the flags, and only handed out where the CPU has it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 warns of its own header's deliberately undefined vectors.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

namespace ringwise {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;

// Two neighbours along the sum, in every lane.
inline __m512bh BroadcastPair(const bf16* pair) {
  int32_t word;
  std::memcpy(&word, pair, sizeof(word));
  return (__m512bh)_mm512_set1_epi32(word);
}

template <int kRows, int kVectors>
void TileProduct(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int k, float* c,
                 int64_t ldc, bool accumulate) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[row][v] = _mm512_setzero_ps();
  }
  for (int i = 0; i < k; i += 2) {
    __m512bh right[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      right[v] = (__m512bh)_mm512_loadu_si512(b + v * 2 * kLanes);
    }
    b += 2 * ldb;
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const __m512bh left = BroadcastPair(a + row * lda + i);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sums[row][v] = _mm512_dpbf16_ps(sums[row][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + row * ldc + v * kLanes;
      _mm512_storeu_ps(
          to, accumulate ? _mm512_add_ps(_mm512_loadu_ps(to), sums[row][v]) : sums[row][v]);
    }
  }
}

template <int kVectors>
void ProductColumns(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int m, int k, float* c,
                    int64_t ldc, bool accumulate) {
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

void Product(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int m, int n, int k, float* c,
             int64_t ldc, bool accumulate) {
  switch ((n + kLanes - 1) / kLanes) {
    case 1:
      return ProductColumns<1>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    case 2:
      return ProductColumns<2>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    case 3:
      return ProductColumns<3>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    case kTileVectors:
      return ProductColumns<kTileVectors>(a, lda, b, ldb, m, k, c, ldc, accumulate);
    default:
      return;
  }
}

inline __m512 Fraction(__m512 t) { return _mm512_reduce_ps(t, 0x09); }

// 2^t by the minimax polynomial of degree 5 of the fraction: relative error below 2e-7, because
// logsumexp sums these in f32.
inline __m512 Exp2(__m512 t) {
  const __m512 fraction = Fraction(t);
  __m512 p = _mm512_set1_ps(1.86713016591966e-3f);
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(9.01702977716923e-3f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(5.579991266131401e-2f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.24016447365283966f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.6931512951850891f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, t);
}

// 2^t where the result is rounded to bf16 at once: degree 3, relative error below 8e-5, a fiftieth
// of that rounding.
inline __m512 RoughExp2(__m512 t) {
  const __m512 fraction = Fraction(t);
  __m512 p = _mm512_set1_ps(7.802452147006989e-2f);
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.22606715559959412f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.6958335638046265f));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.9999251961708069f));
  return _mm512_scalef_ps(p, t);
}

// The lanes of the vector at `column` whose bits are set.
inline __mmask16 Lanes(int column, uint64_t bits) { return static_cast<__mmask16>(bits >> column); }

// Both rows rounded to bf16 (to nearest, ties to even): `first` in the low half.
inline __m512i Round(__m512 first, __m512 second) {
  return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}
// Lanes of the low and the high half in turn: rows side by side become pairs.
inline __m512i Pair(__m512i halves) {
  static constexpr uint16_t kOrder[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                          21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                          11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_loadu_si512(kOrder), halves);
}

// Of two rows, the first in the low half.
inline __mmask32 BothLanes(int column, uint64_t first, uint64_t second) {
  return Lanes(column, first) | static_cast<__mmask32>(Lanes(column, second)) << 16;
}

template <bool kMasked>
void ScoreMaxima(const ScoreTile& tile, float* maxima) {
  const __m512 scale = _mm512_set1_ps(tile.scale);
  for (int column = 0; column < tile.columns; column += kLanes) {
    __m512 high = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int row = 0; row < tile.rows; ++row) {
      const __m512 t = _mm512_mul_ps(scale, _mm512_loadu_ps(tile.scores + row * kPanel + column));
      const __mmask16 lanes =
          kMasked ? Lanes(column, tile.visible[row]) : static_cast<__mmask16>(0xffff);
      high = _mm512_mask_max_ps(high, lanes, t, high);  // in this order NaN does not stay
    }
    _mm512_storeu_ps(maxima + column, high);
  }
}

void AnyScoreMaxima(const ScoreTile& tile, float* maxima) {
  tile.visible ? ScoreMaxima<true>(tile, maxima) : ScoreMaxima<false>(tile, maxima);
}

template <bool kMasked, bool kDrops>
float Softmax(const ScoreTile& tile, const float* reference, bf16* p, float* sums, float* weights,
              float* excess) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  const __m512 scale = _mm512_set1_ps(tile.scale);
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 highest = lowest;
  for (int column = 0; column < tile.columns; column += kLanes) {
    const __m512 reference_v = _mm512_loadu_ps(reference + column);
    __m512 high = lowest;
    __m512 sum = _mm512_setzero_ps();
    __m512 weight = _mm512_setzero_ps();
    const auto store = [&](int row, __m512 first, __m512 second) {
      const __m512i halves = Round(first, second);
      __m512i pairs = Pair(halves);
      weight = _mm512_dpbf16_ps(weight, (__m512bh)pairs, ones);
      if constexpr (kDrops) {
        const uint64_t below = row + 1 < tile.rows ? tile.kept[row + 1] : 0;
        pairs = Pair(_mm512_maskz_mov_epi16(BothLanes(column, tile.kept[row], below), halves));
      }
      _mm512_storeu_si512(p + row * kPanel + 2 * column, pairs);
    };
    const auto one = [&](int row) {
      const __m512 score = _mm512_loadu_ps(tile.scores + row * kPanel + column);
      const __m512 t = _mm512_fmsub_ps(score, scale, reference_v);
      __m512 power = Exp2(t);
      if constexpr (kMasked) {
        const __mmask16 lanes = Lanes(column, tile.visible[row]);
        high = _mm512_mask_max_ps(high, lanes, t, high);
        power = _mm512_maskz_mov_ps(lanes, power);
      } else {
        high = _mm512_max_ps(t, high);
      }
      sum = _mm512_add_ps(sum, power);
      return power;
    };
    int row = 0;
    for (; row + 2 <= tile.rows; row += 2) {
      const __m512 first = one(row);
      const __m512 second = one(row + 1);
      store(row, first, second);
    }
    if (row < tile.rows) store(row, one(row), _mm512_setzero_ps());
    _mm512_storeu_ps(sums + column, sum);
    _mm512_storeu_ps(weights + column, weight);
    _mm512_storeu_ps(excess + column, high);
    highest = _mm512_max_ps(high, highest);
  }
  return _mm512_reduce_max_ps(highest);
}

float AnySoftmax(const ScoreTile& tile, const float* reference, bf16* p, float* sums,
                 float* weights, float* excess) {
  const auto softmax = tile.kept      ? tile.visible ? &Softmax<true, true> : &Softmax<false, true>
                            : tile.visible ? &Softmax<true, false>
                                      : &Softmax<false, false>;
  return softmax(tile, reference, p, sums, weights, excess);
}

inline void StoreLow(bf16* to, __m512i halves) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(halves));
}
inline void StoreHigh(bf16* to, __m512i halves) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_extracti64x4_epi64(halves, 1));
}

template <bool kMasked, bool kHasTerms>
void SoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms, const float* dp,
                     const float* logsumexp, const float* delta, bf16* p, bf16* ds, bf16* packed_ds,
                     int64_t ld) {
  const __m512 dropout_factor = _mm512_set1_ps(terms.dropout_factor);
  const __m512 scale = _mm512_set1_ps(tile.scale);
  for (int column = 0; column < tile.columns; column += kLanes) {
    const __m512 logsumexp_v = _mm512_loadu_ps(logsumexp + column);
    const __m512 delta_v = _mm512_loadu_ps(delta + column);
    const auto one = [&](int row, __m512& power, __m512& gradient) {
      const __m512 score = _mm512_loadu_ps(tile.scores + row * kPanel + column);
      __m512 dp_v = _mm512_loadu_ps(dp + row * kPanel + column);
      power = RoughExp2(_mm512_fmsub_ps(score, scale, logsumexp_v));
      if constexpr (kHasTerms) {
        if (tile.kept != nullptr) {
          dp_v = _mm512_maskz_mul_ps(Lanes(column, tile.kept[row]), dp_v, dropout_factor);
        }
      }
      gradient = _mm512_mul_ps(power, _mm512_sub_ps(dp_v, delta_v));
      if constexpr (kMasked) {
        const __mmask16 lanes = Lanes(column, tile.visible[row]);
        power = _mm512_maskz_mov_ps(lanes, power);
        gradient = _mm512_maskz_mov_ps(lanes, gradient);
      }
      if constexpr (kHasTerms) {
        const int at = row * kPanel + column;
        if (terms.unsloped != nullptr) _mm512_storeu_ps(terms.unsloped + at, gradient);
        if (terms.slopes != nullptr) {
          gradient = _mm512_mul_ps(gradient, _mm512_loadu_ps(terms.slopes + at));
        }
        if (tile.kept != nullptr) {
          power = _mm512_maskz_mov_ps(Lanes(column, tile.kept[row]), power);
        }
      }
    };
    for (int row = 0; row < tile.rows; row += 2) {
      const bool pair = row + 1 < tile.rows;
      __m512 power[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      __m512 gradient[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      one(row, power[0], gradient[0]);
      if (pair) one(row + 1, power[1], gradient[1]);
      const __m512i powers = Round(power[0], power[1]);
      const __m512i gradients = Round(gradient[0], gradient[1]);
      StoreLow(p + row * ld + column, powers);
      StoreLow(ds + row * ld + column, gradients);
      if (pair) {
        StoreHigh(p + (row + 1) * ld + column, powers);
        StoreHigh(ds + (row + 1) * ld + column, gradients);
      }
      _mm512_storeu_si512(packed_ds + row * ld + 2 * column, Pair(gradients));
    }
  }
}

void AnySoftmaxGradient(const ScoreTile& tile, const ScoreGradientTerms& terms, const float* dp,
                        const float* logsumexp, const float* delta, bf16* p, bf16* ds,
                        bf16* packed_ds, int64_t ld) {
  const bool has_terms =
      tile.kept != nullptr || terms.slopes != nullptr || terms.unsloped != nullptr;
  const auto gradient =
      has_terms      ? tile.visible ? &SoftmaxGradient<true, true> : &SoftmaxGradient<false, true>
           : tile.visible ? &SoftmaxGradient<true, false>
                     : &SoftmaxGradient<false, false>;
  gradient(tile, terms, dp, logsumexp, delta, p, ds, packed_ds, ld);
}

void PackTransposed(const bf16* source, int64_t stride, int rows, int length, bf16* packed) {
  const auto row_bytes = static_cast<int64_t>(stride * sizeof(bf16));
  if (rows < kPanel) std::fill_n(packed, (length + 1) / 2 * 2 * kPanel, bf16{});
  TransposeWords(source, row_bytes, rows, length / 2, packed, kPanel);
  if (length % 2 == 0) return;
  bf16* last = packed + (length - 1) * kPanel;
  for (int row = 0; row < rows; ++row) {
    last[2 * row] = source[row * stride + length - 1];
    last[2 * row + 1] = bf16{};
  }
}

void PackRows(const bf16* source, int64_t stride, int rows, int length, int64_t panel_stride,
              bf16* packed) {
  for (int begin = 0; begin < length; begin += kPanel) {
    for (int row = 0; row < rows; row += 2) {
      for (int column = 0; column < kPanel; column += kLanes) {
        const int left = std::clamp(length - begin - column, 0, kLanes);
        const auto lanes = static_cast<__mmask16>((1u << left) - 1u);
        const bf16* from = source + row * stride + begin + column;
        const __m256i first = _mm256_maskz_loadu_epi16(lanes, from);
        const __m256i second = row + 1 < rows ? _mm256_maskz_loadu_epi16(lanes, from + stride)
                                              : _mm256_setzero_si256();
        const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
        _mm512_storeu_si512(packed + row * kPanel + 2 * column, Pair(halves));
      }
    }
    packed += panel_stride;
  }
}

void ScaleColumns(const float* factors, int rows, float* matrix) {
  for (int i = 0; i < rows * kPanel; i += kLanes) {
    _mm512_storeu_ps(matrix + i, _mm512_mul_ps(_mm512_loadu_ps(factors + i % kPanel),
                                               _mm512_loadu_ps(matrix + i)));
  }
}

constexpr TileKernels<bf16> kKernels = {
    .product = &Product,
    .score_maxima = &AnyScoreMaxima,
    .softmax = &AnySoftmax,
    .softmax_gradient = &AnySoftmaxGradient,
    .scale_columns = &ScaleColumns,
    .pack_transposed = &PackTransposed,
    .pack_rows = &PackRows,
};

}  // namespace
}  // namespace ringwise

#pragma GCC pop_options
#pragma GCC diagnostic pop

namespace ringwise {

const TileKernels<bf16>* NativeBf16TileKernels() {
  // The compiler's run-time check includes whether the system saves the wide registers.
  static const bool kSupported =
      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return kSupported ? &kKernels : nullptr;
}

}  // namespace ringwise

#else

namespace ringwise {

const TileKernels<bf16>* NativeBf16TileKernels() { return nullptr; }

}  // namespace ringwise

#endif
