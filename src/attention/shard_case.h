#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attention/attention_oracle.h"
#include "attention/shard_attention.h"

// One device's attention of random tensors by the kernels, against the oracle. For tests only.
namespace ringwise {

// Keys and values may arrive in several blocks; in backward every other one is at home. Where
// queries travel, they do so in blocks of kBlockUnit.
struct ShardCase {
  int64_t batch = 1;
  int64_t heads = 1;
  int64_t kv_heads = 1;
  int64_t head_dim = 64;
  std::optional<int64_t> value_dim = {};  // default head_dim
  DType dtype = DType::kF32;
  AttentionOptions options = {};  // without bias and sinks
  // Which axes of the bias are not broadcast: batch, heads, queries. None: no bias.
  std::optional<std::array<bool, 3>> bias = {};
  bool sinks = false;
  bool logsumexp_gradient = false;
  Positions queries = {};
  std::vector<Positions> key_blocks = {};
  Travelling travelling = Travelling::kKeys;  // in backward
  int threads = 2;
  uint64_t seed = 1;

  AttentionShape shape() const {
    return {batch, heads, kv_heads, head_dim, value_dim.value_or(head_dim), dtype};
  }
  int64_t q_len() const { return Count(queries); }
  Positions keys() const;  // of all blocks
  std::string ToString() const;
};

// Slices of wider tensors, so that every view is strided.
class ShardInputs {
 public:
  explicit ShardInputs(const ShardCase& c);

  TensorView query, key, value, output_gradient;
  std::optional<TensorView> bias = {}, sinks = {}, logsumexp_gradient = {};

 private:
  // [.., heads of .., dim], of which every other head is used.
  TensorView Make(DType dtype, Shape shape, uint64_t seed);

  MemoryMeter meter_;
  std::vector<Tensor> tensors_;
};

// The case's options with bias and sinks.
AttentionOptions OptionsOf(const ShardCase& c, const ShardInputs& inputs);
AttentionCase ForOracle(const ShardCase& c, const ShardInputs& inputs, bool backward = true);

struct ShardResults : AttentionResults {
  AttentionStats forward = {}, backward = {};
};
// Output, logsumexp and, with `backward`, all gradients by the kernels, the output in f32.
ShardResults ComputeShard(const ShardCase& c, const ShardInputs& inputs, bool backward = true,
                          const ProgressHook& progress = {});

// Computes the case, its backward with either side travelling where that can be, and checks it.
// Empty if the results are within the bounds of the oracle's; else what is not.
std::string ComputeAndCheckShard(const ShardCase& c);

// Empty if the results are within the bounds of the oracle's; else what is not.
//   bf16: the root mean square error may be 1.1 times, the largest twice that of the plain formula.
std::string CheckShard(const ShardCase& c, const ShardInputs& inputs,
                       const AttentionResults& results);

}  // namespace ringwise
