#include "kernels/normal_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/normal_rows.cc"
#include "hwy/foreach_target.h"
// foreach_target.h must come first.
#include <algorithm>
#include <numbers>
#include <string>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/normal_rows_reference.h"
#include "kernels/philox-inl.h"
#include "ringwise/error.h"

HWY_BEFORE_NAMESPACE();
namespace ringwise {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR  // vectors of one element have no halves
void NormalBlock(const NormalRowStream& stream, int64_t first_pair, float* HWY_RESTRICT out) {
  for (int64_t i = 0; i < kNormalPairs; ++i) {
    const std::array<float, 2> pair = NormalPair<float>(stream, first_pair + i);
    out[i] = pair[0];
    out[kNormalPairs + i] = pair[1];
  }
}
#else
using D = hn::CappedTag<float, kNormalPairs>;
using V = hn::Vec<D>;
using DBits = hn::RebindToUnsigned<D>;
using DInt = hn::RebindToSigned<D>;
using VBits = hn::Vec<DBits>;

HWY_INLINE V Radius(VBits word) {
  const D d;
  const auto bits = hn::ConvertTo(d, hn::BitCast(DInt(), hn::ShiftRight<1>(word)));
  const V u = hn::MulAdd(bits, hn::Set(d, 0x1p-31f), hn::Set(d, 0x1p-32f));
  // No logarithm above 0, should it err at 1.
  return hn::Sqrt(hn::Max(hn::Mul(hn::Set(d, -2.0f), hn::Log(d, u)), hn::Zero(d)));
}

// cos and sin by Taylor's series in t^2; on [-pi/4, pi/4] the first term left out is below 2^-25.
HWY_INLINE V Cosine(V squared) {
  const D d;
  V sum = hn::MulAdd(squared, hn::Set(d, 1.0f / 40320), hn::Set(d, -1.0f / 720));
  sum = hn::MulAdd(squared, sum, hn::Set(d, 1.0f / 24));
  sum = hn::MulAdd(squared, sum, hn::Set(d, -1.0f / 2));
  return hn::MulAdd(squared, sum, hn::Set(d, 1.0f));
}
HWY_INLINE V Sine(V t, V squared) {
  const D d;
  V sum = hn::MulAdd(squared, hn::Set(d, 1.0f / 362880), hn::Set(d, -1.0f / 5040));
  sum = hn::MulAdd(squared, sum, hn::Set(d, 1.0f / 120));
  sum = hn::MulAdd(squared, sum, hn::Set(d, -1.0f / 6));
  return hn::MulAdd(hn::Mul(t, squared), sum, t);
}

// The 32 numbers of the pairs from `first_pair` on.
HWY_INLINE void NormalBlock(const NormalRowStream& stream, int64_t first_pair,
                            float* HWY_RESTRICT out) {
  const D d;
  const DBits bits;
  const hn::Repartition<uint64_t, D> d64;
  const auto even_pairs = hn::ShiftLeft<1>(hn::Iota(d64, 0));
  for (int64_t i = 0; i < kNormalPairs; i += static_cast<int64_t>(hn::Lanes(d))) {
    // The state of even pairs and of odd ones; their words go to even and odd lanes below.
    const auto first = stream.first + static_cast<uint64_t>(first_pair + i);
    auto left0 = hn::Add(even_pairs, hn::Set(d64, first));
    auto left1 = hn::Add(even_pairs, hn::Set(d64, first + 1));
    auto right0 = hn::Set(d64, uint64_t{stream.second});
    auto right1 = right0;
    uint32_t key = stream.key;
    for (int round = 0; round < DropoutStream::kRounds; ++round) {
      const auto key_v = hn::Set(d64, uint64_t{key});
      PhiloxRound(d64, key_v, left0, right0);
      PhiloxRound(d64, key_v, left1, right1);
      key += DropoutStream::kWeyl;
    }
    const auto words = [&](auto even, auto odd) HWY_ATTR {
      return hn::OddEven(hn::BitCast(bits, hn::ShiftLeft<32>(odd)), hn::BitCast(bits, even));
    };
    const V radius = Radius(words(left0, left1));
    const VBits angle = words(right0, right1);
    const V turn = hn::ConvertTo(d, hn::BitCast(DInt(), hn::ShiftLeft<2>(angle)));
    const V t = hn::Mul(turn, hn::Set(d, std::numbers::pi_v<float> * 0x1p-33f));
    const V squared = hn::Mul(t, t);
    const V side = hn::BitCast(d, hn::And(angle, hn::Set(bits, 0x80000000u)));
    const V signed_radius = hn::Or(radius, side);
    const V across = hn::Mul(signed_radius, Cosine(squared));
    const V along = hn::Mul(signed_radius, Sine(t, squared));
    const auto turned = hn::RebindMask(d, hn::TestBit(angle, hn::Set(bits, 0x40000000u)));
    hn::StoreU(hn::IfThenElse(turned, along, across), d, out + i);
    hn::StoreU(hn::IfThenElse(turned, across, along), d, out + kNormalPairs + i);
  }
}
#endif

void NormalRow(const NormalRowStream& stream, int64_t width, float* HWY_RESTRICT out) {
  constexpr int64_t kBlock = 2 * kNormalPairs;
  int64_t column = 0;
  for (; column + kBlock <= width; column += kBlock) {
    NormalBlock(stream, column / 2, out + column);
  }
  if (column == width) return;
  float rest[kBlock];
  NormalBlock(stream, column / 2, rest);
  std::copy_n(rest, width - column, out + column);
}

}  // namespace HWY_NAMESPACE
}  // namespace ringwise
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ringwise {

HWY_EXPORT(NormalRow);

void NormalRows(Context& context, uint64_t seed, int64_t index, const Positions& positions,
                TensorView rows) {
  const int64_t count = Count(positions);
  if (rows.dtype != DType::kF32 || rows.shape.rank() != 2 || rows.shape[0] != count) {
    throw ShapeError("rows of normal numbers must be f32 [" + std::to_string(count) +
                     ", width], one a position, found " + rows.shape.ToString());
  }
  auto* const normal_row = HWY_DYNAMIC_DISPATCH(NormalRow);
  context.team.Run([&](int thread) {
    const Range range = SplitRange(count, context.team.size(), thread);
    for (int64_t row = range.begin; row < range.end; ++row) {
      normal_row({seed, index, At(positions, row)}, rows.shape[1], rows.at<float>(row));
    }
  });
}

}  // namespace ringwise
#endif  // HWY_ONCE
