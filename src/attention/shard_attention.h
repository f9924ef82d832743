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

// Forward's key/value block is a run of bytes that only this class understands, the same on every
// rank of a ring: what travels is already packed, so no rank packs another's keys again.
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
  // Adds the sinks and completes the outputs.
  virtual void Finish() = 0;
  virtual AttentionStats stats() const = 0;  // of the blocks attended so far
};

// Which rows go from rank to rank in backward, with what belongs to them and with their gradient;
// the other side's rows and gradients stay at home.
enum class Travelling {
  kKeys,     // key, value; gradient: dk, dv
  kQueries,  // query, output gradient, logsumexp, delta; gradient: dq. Not where there is a bias,
             // whose rows are at home with the queries
};

// What backward sends for `rows` rows: the block, and the gradient that comes after it.
struct TravelBytes {
  int64_t block = 0;
  int64_t gradient = 0;
};
TravelBytes BackwardBytes(const AttentionShape& shape, Travelling travelling, int64_t rows);

// Rows travel in blocks that lie in one position run; they begin and end at multiples of this many
// rows of the run, or with it.
inline constexpr int64_t kBlockUnit = 384;

// Backward of one rank, the same for the ring whatever travels. Blocks and gradients are runs of
// bytes that only this class understands; all-zero bytes are a gradient of zero. What stays at home
// adds up inside.
class ShardAttentionBackward {
 public:
  virtual ~ShardAttentionBackward() = default;

  virtual TravelBytes BytesOf(int64_t rows) const = 0;
  // This rank's rows of what travels -> block.
  virtual void Pack(Range rows, std::span<std::byte> block) = 0;
  // This rank's rows of what travels with those at home; the gradients of both stay.
  virtual void AttendOwn(Range rows, const ProgressHook& progress) = 0;
  // A block of any rank with this rank's rows at home; gradient += this rank's part.
  virtual void Attend(std::span<const std::byte> block, const Positions& positions,
                      std::span<std::byte> gradient, const ProgressHook& progress) = 0;
  // The gradient of this rank's rows += what came home.
  virtual void AddGradient(Range rows, std::span<const std::byte> gradient) = 0;
  // Writes this rank's gradients in the views' types; those of bias and sinks are this rank's part.
  virtual void Finish() = 0;
  virtual AttentionStats stats() const = 0;  // of the rows attended so far
};

// What one rank gives to backward. The views must outlive the shard; the gradients' hold sums from
// the start where they are f32.
struct BackwardCall {
  AttentionShape shape;
  AttentionOptions options;
  AttentionInputs inputs;
  AttentionSaved saved;
  AttentionGradients gradients;
  Positions query_positions, key_positions;  // of this rank's rows
};

// The tiled kernels. Views must outlive the object; results lie apart from the inputs, and where
// they are f32 they hold sums from the start, all but dq. Memory: in forward 12 bytes a row and
// head, and the output in f32 where it is not f32; in backward dq in f32 and 8 bytes a row and head
// (activations), and dk and dv in f32 where they are not f32 (ring buffers); a tile workspace a
// thread. Throws ShapeError if shapes disagree.
std::unique_ptr<ShardAttentionForward> MakeShardAttentionForward(
    Context& context, const AttentionShape& shape, const AttentionOptions& options,
    ConstTensorView query, const Positions& query_positions, const AttentionOutputs& outputs);
std::unique_ptr<ShardAttentionBackward> MakeShardAttentionBackward(Context& context,
                                                                   const BackwardCall& call,
                                                                   Travelling travelling);

}  // namespace ringwise
