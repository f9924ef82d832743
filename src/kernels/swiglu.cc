#include "kernels/swiglu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <string>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// 1 / (1 + exp(-x)). Below -88 exp(-x) would overflow; there the result is 0 to f32's precision.
template <class D, class V>
HWY_INLINE V Sigmoid(D d, V x) {
  const V bounded = hn::Max(x, hn::Set(d, -88.0f));
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(bounded))));
}

template <class T>
void ForwardRow(const T* HWY_RESTRICT gate, const T* HWY_RESTRICT up, int64_t ffn,
                T* HWY_RESTRICT hidden) {
  ForEachLane(ffn, [&](auto d, int64_t j) HWY_ATTR {
    const auto g = LoadF32(d, gate + j);
    StoreF32(hn::Mul(hn::Mul(g, Sigmoid(d, g)), LoadF32(d, up + j)), d, hidden + j);
  });
}

template <class T>
void BackwardRow(const T* HWY_RESTRICT hidden_gradient, int64_t ffn, T* HWY_RESTRICT gate,
                 T* HWY_RESTRICT up) {
  ForEachLane(ffn, [&](auto d, int64_t j) HWY_ATTR {
    const auto g = LoadF32(d, gate + j);
    const auto u = LoadF32(d, up + j);
    const auto gradient = LoadF32(d, hidden_gradient + j);
    const auto s = Sigmoid(d, g);
    const auto silu = hn::Mul(g, s);
    // s + g s (1 - s) = s + silu - silu s
    const auto slope = hn::Add(s, hn::NegMulAdd(silu, s, silu));
    StoreF32(hn::Mul(hn::Mul(gradient, u), slope), d, gate + j);
    StoreF32(hn::Mul(gradient, silu), d, up + j);
  });
}

void ForwardRowF32(const float* gate, const float* up, int64_t ffn, float* hidden) {
  ForwardRow(gate, up, ffn, hidden);
}
void ForwardRowBf16(const bf16* gate, const bf16* up, int64_t ffn, bf16* hidden) {
  ForwardRow(gate, up, ffn, hidden);
}
void BackwardRowF32(const float* hidden_gradient, int64_t ffn, float* gate, float* up) {
  BackwardRow(hidden_gradient, ffn, gate, up);
}
void BackwardRowBf16(const bf16* hidden_gradient, int64_t ffn, bf16* gate, bf16* up) {
  BackwardRow(hidden_gradient, ffn, gate, up);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(ForwardRowF32);
HWY_EXPORT(ForwardRowBf16);
HWY_EXPORT(BackwardRowF32);
HWY_EXPORT(BackwardRowBf16);

void Check(const ConstTensorView& gate_up, const ConstTensorView& hidden) {
  if (gate_up.shape.rank() != 2 || hidden.shape.rank() != 2 ||
      gate_up.shape[0] != hidden.shape[0] || gate_up.shape[1] != 2 * hidden.shape[1] ||
      gate_up.dtype != hidden.dtype) {
    throw ShapeError(
        "SwiGLU needs gate_up [rows, 2 ffn] and hidden [rows, ffn] of one type, found " +
        gate_up.shape.ToString() + " and " + hidden.shape.ToString());
  }
}

}  // namespace

void SwiGluForward(Context& context, ConstTensorView gate_up, TensorView hidden) {
  Check(gate_up, hidden);
  const int64_t ffn = hidden.shape[1];
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(ForwardRowF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(ForwardRowBf16);
  context.team.Run([&](int thread) {
    const Range range = SplitRange(hidden.shape[0], context.team.size(), thread);
    for (int64_t row = range.begin; row < range.end; ++row) {
      if (hidden.dtype == DType::kF32) {
        f32(gate_up.at<float>(row), gate_up.at<float>(row, ffn), ffn, hidden.at<float>(row));
      } else {
        b16(gate_up.at<bf16>(row), gate_up.at<bf16>(row, ffn), ffn, hidden.at<bf16>(row));
      }
    }
  });
}

void SwiGluBackward(Context& context, ConstTensorView hidden_gradient, TensorView gate_up) {
  Check(gate_up, hidden_gradient);
  const int64_t ffn = hidden_gradient.shape[1];
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(BackwardRowF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(BackwardRowBf16);
  context.team.Run([&](int thread) {
    const Range range = SplitRange(gate_up.shape[0], context.team.size(), thread);
    for (int64_t row = range.begin; row < range.end; ++row) {
      if (gate_up.dtype == DType::kF32) {
        f32(hidden_gradient.at<float>(row), ffn, gate_up.at<float>(row),
            gate_up.at<float>(row, ffn));
      } else {
        b16(hidden_gradient.at<bf16>(row), ffn, gate_up.at<bf16>(row), gate_up.at<bf16>(row, ffn));
      }
    }
  });
}

}  // namespace ringwise
#endif  // HWY_ONCE
