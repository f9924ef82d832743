#include "kernels/rotary.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rotary.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <cmath>
#include <complex>
#include <string>
#include <vector>

#include "hwy/highway.h"
#include "kernels/simd-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

// direction: 1 rotates, -1 rotates back.
template <class T>
void RotateHead(T* HWY_RESTRICT x, const float* HWY_RESTRICT cosines,
                const float* HWY_RESTRICT sines, int64_t pairs, float direction) {
  ForEachLane(pairs, [&](auto d, int64_t i) HWY_ATTR {
    const auto first = LoadF32(d, x + i);
    const auto second = LoadF32(d, x + pairs + i);
    const auto cosine = hn::LoadU(d, cosines + i);
    const auto sine = hn::Mul(hn::LoadU(d, sines + i), hn::Set(d, direction));
    StoreF32(hn::NegMulAdd(second, sine, hn::Mul(first, cosine)), d, x + i);
    StoreF32(hn::MulAdd(first, sine, hn::Mul(second, cosine)), d, x + pairs + i);
  });
}

void RotateHeadF32(float* x, const float* cosines, const float* sines, int64_t pairs,
                   float direction) {
  RotateHead(x, cosines, sines, pairs, direction);
}
void RotateHeadBf16(bf16* x, const float* cosines, const float* sines, int64_t pairs,
                    float direction) {
  RotateHead(x, cosines, sines, pairs, direction);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {
namespace {

HWY_EXPORT(RotateHeadF32);
HWY_EXPORT(RotateHeadBf16);

void Rotate(Context& context, const RotaryTable& table, int64_t first_row, TensorView x,
            float direction) {
  if (x.shape.rank() != 3 || x.shape[2] != 2 * table.pairs() || first_row < 0 ||
      first_row + x.shape[0] > table.rows()) {
    throw ShapeError("the rotary embedding needs [rows, heads, " +
                     std::to_string(2 * table.pairs()) + "] within " +
                     std::to_string(table.rows()) + " rows, found " + x.shape.ToString() +
                     " from row " + std::to_string(first_row));
  }
  auto* const f32 = &HWY_DYNAMIC_DISPATCH(RotateHeadF32);
  auto* const b16 = &HWY_DYNAMIC_DISPATCH(RotateHeadBf16);
  context.team.Run([&](int thread) {
    const Range range = SplitRange(x.shape[0], context.team.size(), thread);
    for (int64_t row = range.begin; row < range.end; ++row) {
      const float* cosines = table.cosines(first_row + row);
      const float* sines = table.sines(first_row + row);
      for (int64_t head = 0; head < x.shape[1]; ++head) {
        if (x.dtype == DType::kF32) {
          f32(x.at<float>(row, head), cosines, sines, table.pairs(), direction);
        } else {
          b16(x.at<bf16>(row, head), cosines, sines, table.pairs(), direction);
        }
      }
    }
  });
}

}  // namespace

namespace {

// The angles of neighbouring rows follow from each other by a rotation in double. After this many
// they are made anew: a few dozen roundings of 1e-16 are nothing to an f32.
constexpr int64_t kRowsFromOneAngle = 32;

// Without the care for infinities that operator* takes.
std::complex<double> Times(std::complex<double> a, std::complex<double> b) {
  return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}

}  // namespace

RotaryTable::RotaryTable(Context& context, const Positions& positions, int64_t head_dim,
                         double theta)
    : rows_(Count(positions)), pairs_(head_dim / 2) {
  if (head_dim < 2 || head_dim % 2 != 0) {
    throw ShapeError("the rotary embedding needs an even head_dim, found " +
                     std::to_string(head_dim));
  }
  table_ = Tensor(context.meter, MemoryCategory::kActivations, DType::kF32, {rows_, 2, pairs_});
  std::vector<double> frequencies(pairs_);
  for (int64_t pair = 0; pair < pairs_; ++pair) {
    frequencies[pair] =
        std::pow(theta, -2.0 * static_cast<double>(pair) / static_cast<double>(head_dim));
  }
  context.team.Run([&](int thread) {
    const Range range = SplitRange(rows_, context.team.size(), thread);
    std::vector<std::complex<double>> angles(pairs_);
    std::vector<std::complex<double>> steps(pairs_);
    int64_t run_begin = 0;
    for (const PositionRun& run : positions) {
      const int64_t first = std::max(run_begin, range.begin);
      const int64_t last = std::min(run_begin + run.count, range.end);
      for (int64_t pair = 0; pair < pairs_ && first < last; ++pair) {
        steps[pair] = std::polar(1.0, static_cast<double>(run.stride) * frequencies[pair]);
      }
      for (int64_t row = first; row < last; ++row) {
        const bool anew = (row - first) % kRowsFromOneAngle == 0;
        const auto position = static_cast<double>(run[row - run_begin]);
        float* entry = table_.data<float>() + row * 2 * pairs_;
        for (int64_t pair = 0; pair < pairs_; ++pair) {
          angles[pair] = anew ? std::polar(1.0, position * frequencies[pair])
                              : Times(angles[pair], steps[pair]);
          entry[pair] = static_cast<float>(angles[pair].real());
          entry[pairs_ + pair] = static_cast<float>(angles[pair].imag());
        }
      }
      run_begin += run.count;
    }
  });
}

void ApplyRotary(Context& context, const RotaryTable& table, int64_t first_row, TensorView x) {
  Rotate(context, table, first_row, x, 1.0f);
}

void ApplyRotaryInverse(Context& context, const RotaryTable& table, int64_t first_row,
                        TensorView x) {
  Rotate(context, table, first_row, x, -1.0f);
}

}  // namespace ringwise
#endif  // HWY_ONCE
