#pragma once

// The vectors of the bf16 tile kernels. As its fellows x_bf16-inl.h it is a part of
// tile_kernels_bf16.cc, which sets the instruction set.
#include <immintrin.h>

#include <cstdint>

#include "kernels/tile_kernels.h"

namespace ringwise::native_bf16 {

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

}  // namespace ringwise::native_bf16
