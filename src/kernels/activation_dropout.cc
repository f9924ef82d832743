#include "kernels/activation_dropout.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation_dropout.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <algorithm>
#include <array>
#include <string>

#include "hwy/highway.h"
#include "kernels/dropout_bits.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// Up to 64 elements of a row, element i kept by bit i.
template <class T>
void DropRow(uint64_t kept, int64_t count, float scale, T* HWY_RESTRICT x) {
  ForEachLane(count, [&](auto d, int64_t i) HWY_ATTR {
    const uint64_t bits = kept >> i;
    const auto mask = hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
    const auto scaled = hn::Mul(LoadF32(d, x + i), hn::Set(d, scale));
    StoreF32(hn::IfThenElseZero(mask, scaled), d, x + i);
  });
}

void DropRowF32(uint64_t kept, int64_t count, float scale, float* x) {
  DropRow(kept, count, scale, x);
}
void DropRowBf16(uint64_t kept, int64_t count, float scale, bf16* x) {
  DropRow(kept, count, scale, x);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(DropRowF32);
HWY_EXPORT(DropRowBf16);

constexpr int64_t kColumnsAtOnce = 64;
constexpr int64_t kRowsAtOnce = 64;

// Rows [row, row + run.count) of x, whose positions are `run`.
void DropRows(const DropoutStream& stream, float scale, const PositionRun& run, int64_t row,
              const TensorView& x) {
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(DropRowF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(DropRowBf16);
  std::array<uint64_t, kRowsAtOnce> kept;
  for (int64_t first = 0; first < run.count; first += kRowsAtOnce) {
    const PositionRun rows{run[first], std::min(kRowsAtOnce, run.count - first), run.stride};
    for (int64_t column = 0; column < x.shape[1]; column += kColumnsAtOnce) {
      const int64_t columns = std::min(kColumnsAtOnce, x.shape[1] - column);
      DropoutBits(stream, {column, columns, 1}, rows, kept.data());
      for (int64_t i = 0; i < rows.count; ++i) {
        if (x.dtype == DType::kF32) {
          f32(kept[i], columns, scale, x.at<float>(row + first + i, column));
        } else {
          b16(kept[i], columns, scale, x.at<bf16>(row + first + i, column));
        }
      }
    }
  }
}

}  // namespace

void DropActivations(Context& context, const Dropout& dropout, const Positions& positions,
                     TensorView x) {
  if (x.shape.rank() != 2 || Count(positions) != x.shape[0]) {
    throw ShapeError("dropout of " + x.shape.ToString() + " needs a position a row, found " +
                     std::to_string(Count(positions)));
  }
  if (dropout.probability == 0) return;
  const DropoutStream stream(dropout, 0, 0);
  const auto scale = static_cast<float>(1 / (1 - dropout.probability));
  context.team.Run([&](int thread) {
    const Range mine = SplitRange(x.shape[0], context.team.size(), thread);
    int64_t row = 0;
    for (const PositionRun& run : positions) {
      const int64_t begin = std::max(mine.begin, row);
      const int64_t end = std::min(mine.end, row + run.count);
      if (begin < end) {
        DropRows(stream, scale, {run[begin - row], end - begin, run.stride}, begin, x);
      }
      row += run.count;
    }
  });
}

}  // namespace ringwise
#endif  // HWY_ONCE
