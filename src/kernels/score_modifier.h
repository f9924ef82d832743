#pragma once

#include <cstdint>

// What stands between a product of query and key and its exponential, on tiles of scores as
// kernels/tile_kernels.h lays them out: rows are keys, columns queries, rows kPanel apart; columns
// up to the next multiple of kLanes are read and written.
namespace ringwise {

// score = softcap(scale product) + added,  softcap(x) = cap tanh(x / cap).
// In f32, with one rounding a step: infinite products give +-cap, NaN stays NaN.
class ScoreModifier {
 public:
  ScoreModifier(double scale, double softcap);  // softcap 0: none

  // scores: products in, log2(e) * score out. added [rows][kPanel]; null: nothing is added.
  // slopes [rows][kPanel] = d score / d (scale product), or 1 without softcap; null: not asked for.
  void Apply(int rows, int columns, const float* added, float* scores, float* slopes) const;

 private:
  bool capped_;
  float in_;   // of the product, before tanh if capped
  float out_;  // of tanh
};

// added[row][column] -= slope |first - row * row_step + column * column_step|, all of them whole
// numbers small enough to be exact in f32.
void SubtractDistances(float slope, float first, float row_step, float column_step, int rows,
                       int columns, float* added);

// Clears the bits of `visible` [rows] whose element of `added` is -infinity or becomes so in base
// 2, below -2.3e38; column c as bit c.
void HideMinusInfinity(const float* added, int rows, int columns, uint64_t* visible);

}  // namespace ringwise
