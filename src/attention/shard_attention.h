#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "ringwise/attention_options.h"
#include "ringwise/context.h"
#include "ringwise/positions.h"
#include "ringwise/ring_attention.h"
#include "ringwise/tensor.h"

// One device's part of exact attention: the queries of one shard, fed one key/value block at a
// time. What is computed: ringwise/attention_options.h.
//
// The ring calls these two interfaces; it does not know tiles. Two implementations: the tiled
// kernels and a plain reference in double (shard_attention_reference), so that a schedule can be
// checked without rounding.
namespace ringwise {

// Called between tiles so that transfers move; may be empty.
using ProgressHook = std::function<void()>;

struct AttentionShape {
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;       // divides heads
  int64_t head_dim = 0;       // of query and key, 1 to 256
  int64_t value_dim = 0;      // of value and output, 1 to 256
  DType dtype = DType::kF32;  // of query, key, value
};

// A key/value block is a run of bytes that only these classes understand, the same on every rank of
// a ring: what travels is already packed, so no rank packs another's keys again.

class ShardAttentionForward {
 public:
  virtual ~ShardAttentionForward() = default;

  // Bytes of the block of `kv_len` keys.
  virtual int64_t BlockBytes(int64_t kv_len) const = 0;
  // key [batch, kv_len, kv_heads, head_dim], value [.., value_dim] at `positions` -> block.
  virtual void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
                    std::span<std::byte> block) = 0;
  // Attends all queries to the block and merges the partial result into the state (f32).
  virtual void Attend(std::span<const std::byte> block, const Positions& key_positions,
                      const ProgressHook& progress) = 0;
  // Adds the sinks and writes the outputs.
  virtual void Finish(const AttentionOutputs& outputs) = 0;
  virtual AttentionStats stats() const = 0;  // of the blocks attended so far
};

class ShardAttentionBackward {
 public:
  virtual ~ShardAttentionBackward() = default;

  virtual int64_t BlockBytes(int64_t kv_len) const = 0;
  virtual void Pack(ConstTensorView key, ConstTensorView value, const Positions& positions,
                    std::span<std::byte> block) = 0;
  // Bytes of the block's gradient (dk and dv), which travels with it. All-zero bytes are zero
  // gradients.
  virtual int64_t GradientBytes(int64_t kv_len) const = 0;
  // gradient += this shard's part of dk, dv for the block; dq accumulates inside.
  virtual void Attend(std::span<const std::byte> block, const Positions& key_positions,
                      std::span<std::byte> gradient, const ProgressHook& progress) = 0;
  // sum += gradient, both of the same block.
  virtual void AddGradient(std::span<std::byte> sum, std::span<const std::byte> gradient) = 0;
  // gradient -> key_gradient, value_gradient, as Pack's tensors, in the views' type.
  virtual void UnpackGradient(std::span<const std::byte> gradient, TensorView key_gradient,
                              TensorView value_gradient) = 0;
  // Writes dq in the view's type, and this rank's part of the gradients of bias and sinks where
  // they are asked for. The views of key and value are not touched.
  virtual void Finish(const AttentionGradients& gradients) = 0;
  virtual AttentionStats stats() const = 0;  // of the blocks attended so far
};

// The tiled kernels. Views must outlive the object. Memory: state and dq in f32 (activations), one
// tile workspace a thread. Throws ShapeError if shapes disagree.
std::unique_ptr<ShardAttentionForward> MakeShardAttentionForward(Context& context,
                                                                 const AttentionShape& shape,
                                                                 const AttentionOptions& options,
                                                                 ConstTensorView query,
                                                                 const Positions& query_positions);
// `bias_gradient`, where it is asked for, is the view that Finish is given: Attend already sums up
// in it, for it may be too large to hold twice.
std::unique_ptr<ShardAttentionBackward> MakeShardAttentionBackward(
    Context& context, const AttentionShape& shape, const AttentionOptions& options,
    ConstTensorView query, const AttentionSaved& saved, const Positions& query_positions,
    const std::optional<TensorView>& bias_gradient = {});

}  // namespace ringwise
