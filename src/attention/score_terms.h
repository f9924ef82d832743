#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "kernels/score_modifier.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Softcap, ALiBi and the bias: what a call's scores have beside the scaled product. Works on tiles
// [rows][kPanel] as the kernels do: rows are keys, columns queries. `queries` are at most kPanel
// rows of one shard, `keys` any part of a key tile. Threads may share it; the bias must outlive it.
class ScoreTerms {
 public:
  ScoreTerms(const AttentionShape& shape, const AttentionOptions& options);

  // The score is scale * product and no more: Apply need not be called.
  bool none() const { return !capped_ && alibi_slopes_.empty() && !bias_; }
  // Softcap: slopes are not all 1.
  bool sloped() const { return capped_; }
  // An element of the bias may be -inf, which hides the pair as a mask does.
  bool hides() const { return bias_.has_value(); }

  // scores: products in, log2(e) * score out: from then on the tile's scale is 1.
  // slopes [rows][kPanel] = d score / d (scale * product); null: not asked for.
  // added: scratch of [rows][kPanel].
  // visible [rows]: loses the bits of the pairs that the bias hides; may be null unless hides().
  void Apply(int64_t batch, int64_t head, const RowBlock& queries, const RowBlock& keys,
             float* scores, float* slopes, float* added, uint64_t* visible) const;

 private:
  void GatherBias(int64_t batch, int64_t head, const RowBlock& queries, const RowBlock& keys,
                  float* added) const;
  void SubtractAlibi(float slope, const PositionRun& queries, const PositionRun& keys,
                     float* added) const;

  ScoreModifier modifier_;
  bool capped_;
  std::vector<float> alibi_slopes_;
  std::optional<ConstTensorView> bias_;
};

// bias_gradient (as AttentionOptions::bias) += gradient [keys][kPanel] of the tile's elements,
// summed over the axes along which the bias is broadcast. Calls for the same elements follow each
// other.
void AddBiasGradient(int64_t batch, int64_t head, const RowBlock& queries, const RowBlock& keys,
                     const float* gradient, const TensorView& bias_gradient);

}  // namespace ringwise
