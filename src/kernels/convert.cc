#include "kernels/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/convert.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <cstring>

#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

template <class From, class To>
HWY_INLINE void ConvertAny(const From* HWY_RESTRICT from, To* HWY_RESTRICT to, int64_t count) {
  ForEachLane(count,
              [&](auto d, int64_t i) HWY_ATTR { StoreF32(LoadF32(d, from + i), d, to + i); });
}

template <class From, class To>
HWY_INLINE void AddAny(const From* HWY_RESTRICT from, To* HWY_RESTRICT to, int64_t count) {
  ForEachLane(count, [&](auto d, int64_t i) HWY_ATTR {
    StoreF32(hn::Add(LoadF32(d, to + i), LoadF32(d, from + i)), d, to + i);
  });
}

void Narrow(const float* from, bf16* to, int64_t count) { ConvertAny(from, to, count); }
void Widen(const bf16* from, float* to, int64_t count) { ConvertAny(from, to, count); }
void AddFF(const float* from, float* to, int64_t count) { AddAny(from, to, count); }
void AddFB(const float* from, bf16* to, int64_t count) { AddAny(from, to, count); }
void AddBF(const bf16* from, float* to, int64_t count) { AddAny(from, to, count); }
void AddBB(const bf16* from, bf16* to, int64_t count) { AddAny(from, to, count); }

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(Narrow);
HWY_EXPORT(Widen);
HWY_EXPORT(AddFF);
HWY_EXPORT(AddFB);
HWY_EXPORT(AddBF);
HWY_EXPORT(AddBB);

constexpr int64_t kLineElements = 64;

void AddRange(const float* from, float* to, int64_t n) { HWY_DYNAMIC_DISPATCH(AddFF)(from, to, n); }
void AddRange(const float* from, bf16* to, int64_t n) { HWY_DYNAMIC_DISPATCH(AddFB)(from, to, n); }
void AddRange(const bf16* from, float* to, int64_t n) { HWY_DYNAMIC_DISPATCH(AddBF)(from, to, n); }
void AddRange(const bf16* from, bf16* to, int64_t n) { HWY_DYNAMIC_DISPATCH(AddBB)(from, to, n); }

void CheckAlike(ConstTensorView from, ConstTensorView to) {
  if (!(from.shape == to.shape) || !from.contiguous() || !to.contiguous()) {
    throw ShapeError("expected contiguous tensors of one shape, found " + from.shape.ToString() +
                     " and " + to.shape.ToString());
  }
}

// Calls function(from pointer, to pointer, count) once a thread.
template <class Function>
void ForEachRange(Context& context, ConstTensorView from, TensorView to, Function function) {
  CheckAlike(from, to);
  DispatchDType(from.dtype, [&]<class From>(From) {
    DispatchDType(to.dtype, [&]<class To>(To) {
      context.team.Run([&](int thread) {
        const Range range = SplitRange(from.elements(), context.team.size(), thread, kLineElements);
        function(from.data<From>() + range.begin, to.data<To>() + range.begin, range.size());
      });
    });
  });
}

}  // namespace

void Convert(const float* from, float* to, int64_t count) {
  if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

void Convert(const bf16* from, bf16* to, int64_t count) {
  if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(bf16));
}

void Convert(const float* from, bf16* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(Narrow)(from, to, count);
}

void Convert(const bf16* from, float* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(Widen)(from, to, count);
}

void Convert(Context& context, ConstTensorView from, TensorView to) {
  ForEachRange(context, from, to, [](const auto* source, auto* target, int64_t count) {
    Convert(source, target, count);
  });
}

void Add(Context& context, ConstTensorView from, TensorView to) {
  ForEachRange(context, from, to, [](const auto* source, auto* target, int64_t count) {
    AddRange(source, target, count);
  });
}

}  // namespace ringwise
#endif  // HWY_ONCE
