#include "kernels/row_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#if defined(__aarch64__)  // vectors of unknown size cannot be elements of an array
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2)
#endif
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/row_attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/tile_vectors_f32-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

HWY_INLINE V Widened(const float* from) { return hn::LoadU(D(), from); }
HWY_INLINE V Widened(const bf16* from) {
  const hn::RebindToUnsigned<D> words;
  const hn::Rebind<uint16_t, D> halves;
  const auto bits = hn::LoadU(halves, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
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

// Lane i: the dot product of `query` with row i of kWidth rows. The products of a row first add up
// by lanes, then all rows' lanes at once. Row by row, as memory is best read.
template <class Element>
V Dots(const Element* rows, int64_t stride, const float* query, int64_t length) {
  const D d;
  V sums[kWidth];
  const int64_t whole = length / kWidth * kWidth;
  for (int row = 0; row < kWidth; ++row) {
    const Element* from = rows + row * stride;
    V sum = hn::Zero(d);
    V other = hn::Zero(d);
    int64_t i = 0;
    for (; i + 2 * kWidth <= length; i += 2 * kWidth) {
      sum = hn::MulAdd(Widened(from + i), hn::LoadU(d, query + i), sum);
      other = hn::MulAdd(Widened(from + i + kWidth), hn::LoadU(d, query + i + kWidth), other);
    }
    if (i < whole) sum = hn::MulAdd(Widened(from + i), hn::LoadU(d, query + i), sum);
    sums[row] = hn::Add(sum, other);
  }
  for (int count = kWidth; count > 1; count /= 2) {
    for (int i = 0; i < count / 2; ++i) sums[i] = SumPairs(sums[2 * i], sums[2 * i + 1]);
  }
  if (whole == length) return sums[0];
  float tails[kWidth];
  for (int row = 0; row < kWidth; ++row) {
    tails[row] = 0;
    for (int64_t i = whole; i < length; ++i) {
      tails[row] += static_cast<float>(rows[row * stride + i]) * query[i];
    }
  }
  return hn::Add(sums[0], hn::LoadU(d, tails));
}

// The same of `count` < kWidth rows; other lanes are 0.
template <class Element>
V FewDots(const Element* rows, int64_t stride, int64_t count, const float* query, int64_t length) {
  float dots[kWidth] = {};
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < length; ++i) {
      dots[row] += static_cast<float>(rows[row * stride + i]) * query[i];
    }
  }
  return hn::LoadU(D(), dots);
}

// output += weights[0] values[0] + weights[1] values[1] + ..., kVectors columns at once in
// registers. The terms add up by themselves first: so rounding grows with the root of the steps,
// not of the keys.
template <int kVectors, class Element>
void AddColumns(const Element* values, int64_t stride, int64_t count, const float* weights,
                float* output) {
  const D d;
  V sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
  for (int64_t row = 0; row < count; ++row) {
    const Element* from = values + row * stride;
    const V weight = hn::Set(d, weights[row]);
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = hn::MulAdd(weight, Widened(from + v * kWidth), sums[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    float* to = output + v * kWidth;
    hn::StoreU(hn::Add(hn::LoadU(d, to), sums[v]), d, to);
  }
}

template <class Element>
void AddWeighted(const Element* values, int64_t stride, int64_t count, const float* weights,
                 int64_t length, float* output) {
  int64_t i = 0;
  for (; i + 8 * kWidth <= length; i += 8 * kWidth) {
    AddColumns<8>(values + i, stride, count, weights, output + i);
  }
  for (; i + 4 * kWidth <= length; i += 4 * kWidth) {
    AddColumns<4>(values + i, stride, count, weights, output + i);
  }
  for (; i + kWidth <= length; i += kWidth) {
    AddColumns<1>(values + i, stride, count, weights, output + i);
  }
  for (; i < length; ++i) {
    for (int64_t row = 0; row < count; ++row) {
      output[i] += weights[row] * static_cast<float>(values[row * stride + i]);
    }
  }
}

// Starts from `maximum`, or moves on to it.
void Move(float maximum, int64_t value_dim, AttentionRow& row) {
  if (row.row_sum == 0) {
    std::fill_n(row.output, value_dim, 0.0f);
  } else {
    const float factor = std::exp2(row.row_max - maximum);
    row.row_sum *= factor;
    for (int64_t i = 0; i < value_dim; ++i) row.output[i] *= factor;
  }
  row.row_max = maximum;
}

template <class Element>
void Attend(const KeyValueRows<Element>& rows, int64_t head_dim, int64_t value_dim, float scale,
            AttentionRow& row) {
  constexpr float kSlack = 8.0f;
  const D d;
  const V lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t begin = 0; begin < rows.count; begin += kWidth) {
    const int64_t count = std::min<int64_t>(kWidth, rows.count - begin);
    const Element* keys = rows.keys + begin * rows.key_stride;
    const auto lanes = hn::FirstN(d, static_cast<size_t>(count));
    const V dots = count == kWidth ? Dots(keys, rows.key_stride, row.query, head_dim)
                                   : FewDots(keys, rows.key_stride, count, row.query, head_dim);
    const V t = hn::IfThenElse(lanes, hn::Mul(hn::Set(d, scale), dots), lowest);
    const float maximum = hn::GetLane(hn::MaxOfLanes(d, Higher(t, lowest)));
    if (row.row_sum == 0 || maximum > row.row_max + kSlack) {
      // Above -inf, which overflow can give: its difference from itself would be NaN.
      Move(std::max(maximum, std::numeric_limits<float>::lowest()), value_dim, row);
    }
    // Not from t, which is rounded: where logits are large that would be a large part of p.
    const V exponent = hn::MulSub(dots, hn::Set(d, scale), hn::Set(d, row.row_max));
    const V p = hn::IfThenElseZero(lanes, Exp2(exponent));
    row.row_sum += hn::GetLane(hn::SumOfLanes(d, p));
    float weights[kWidth];
    hn::StoreU(p, d, weights);
    AddWeighted(rows.values + begin * rows.value_stride, rows.value_stride, count, weights,
                value_dim, row.output);
  }
}

void AttendFloats(const KeyValueRows<float>& rows, int64_t head_dim, int64_t value_dim, float scale,
                  AttentionRow& row) {
  Attend(rows, head_dim, value_dim, scale, row);
}
void AttendBf16s(const KeyValueRows<bf16>& rows, int64_t head_dim, int64_t value_dim, float scale,
                 AttentionRow& row) {
  Attend(rows, head_dim, value_dim, scale, row);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(AttendFloats);
HWY_EXPORT(AttendBf16s);

void AttendRow(const KeyValueRows<float>& rows, int64_t head_dim, int64_t value_dim, float scale,
               AttentionRow& row) {
  HWY_DYNAMIC_DISPATCH(AttendFloats)(rows, head_dim, value_dim, scale, row);
}
void AttendRow(const KeyValueRows<bf16>& rows, int64_t head_dim, int64_t value_dim, float scale,
               AttentionRow& row) {
  HWY_DYNAMIC_DISPATCH(AttendBf16s)(rows, head_dim, value_dim, scale, row);
}

}  // namespace ringwise
#endif
