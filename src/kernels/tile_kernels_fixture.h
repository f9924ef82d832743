#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "hwy/targets.h"
#include "kernels/tile_kernels.h"
#include "ringwise/random.h"

// What the tests of the tile kernels share.
namespace ringwise {

template <class Operand>
std::vector<Operand> Normal(size_t count, uint64_t stream, float scale = 1.0f) {
  Random random(1, stream);
  std::vector<Operand> values(count);
  for (Operand& value : values) value = Operand(scale * random.Normal());
  return values;
}

// Runs `check` with the kernels of every instruction set that this machine has.
template <class Operand, class Check>
void ForEachKernels(const Check& check) {
  if constexpr (std::is_same_v<Operand, bf16>) {
    if (NativeBf16TileKernels() == nullptr) GTEST_SKIP() << "no bf16 products on this CPU";
    for (const auto* kernels : {AmxTileKernels(), DotBf16TileKernels()}) {
      SCOPED_TRACE(kernels == AmxTileKernels() ? "AMX" : "AVX-512 BF16");
      if (kernels != nullptr) check(*kernels);
    }
  } else {
    for (const auto target : hwy::SupportedAndGeneratedTargets()) {
      SCOPED_TRACE(hwy::TargetName(target));
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().DeInit();
      check(FloatTileKernels());
    }
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }
}

using TileOperands = testing::Types<float, bf16>;

// Scores of a tile, and which of them are visible and kept.
struct Scores {
  explicit Scores(int rows, bool masked, bool drops = false)
      : scores(Normal<float>(rows * kPanel, 3, 20.0f)) {
    Random random(2, 2);
    for (int row = 0; row < rows; ++row) {
      // Some rows all, none or half of them.
      visible.push_back(row % 5 == 3 ? ~uint64_t{0} : row % 5 == 1 ? 0 : random.Below(UINT64_MAX));
      kept.push_back(random.Below(UINT64_MAX));
    }
    tile = {.scores = scores.data(),
            .rows = rows,
            .columns = kPanel,
            .scale = 0.17f,
            .visible = masked ? visible.data() : nullptr,
            .kept = drops ? kept.data() : nullptr};
  }
  std::vector<float> scores;
  std::vector<uint64_t> visible;
  std::vector<uint64_t> kept;
  ScoreTile tile;
};

// Half a unit in the last place of what p is stored as, beside the polynomial's error.
template <class Operand>
inline constexpr double kRounding = std::is_same_v<Operand, bf16> ? 1.0 / 256 : 0.0;
inline constexpr double kPolynomial = 2.5e-7;       // two units in the last place of f32
inline constexpr double kRoughPolynomial = 8.5e-5;  // where bf16 follows

}  // namespace ringwise
