#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/shard_attention.h"
#include "attention/tiling.h"
#include "kernels/tile_kernels.h"
#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// dq of a shard while it accumulates: f32, transposed by panels of kPanel queries, because products
// make it so. Several threads may work on one head: the first adds to the sum itself, each other to
// a private copy of that head group, and Reduce adds the copies in thread order.
class QueryGradient {
 public:
  // `blocks` are the query blocks; each is cut into panels. Starts from zero, in memory of its own,
  // or from what `sum` holds (SumBytes), which is then where it accumulates.
  QueryGradient(Context& context, const AttentionShape& shape, const std::vector<RowBlock>& blocks,
                std::span<std::byte> sum = {});

  // Of `rows` queries in one run.
  static int64_t SumBytes(const AttentionShape& shape, int64_t rows) {
    return shape.batch * shape.heads * RoundUp(rows, kLanes) * shape.head_dim *
           static_cast<int64_t>(sizeof(float));
  }

  struct Panel {
    float* data = nullptr;  // [head_dim][stride]
    int64_t stride = 0;     // the panel's queries, rounded up to kLanes
  };

  // The panel at query `begin` (local index) of a head: in the sum itself, or in the private copy
  // of thread `copy`, which holds one head group.
  static constexpr int kSum = -1;
  Panel At(int copy, int64_t batch_head, int64_t begin) const {
    return copy == kSum ? Find(Sum(), batch_head, begin)
                        : Find(copies_[copy].as<float>(), batch_head % group_, begin);
  }

  // Makes the private copy of a thread; outside the team's tasks.
  void MakePrivate(int thread);
  // Zeroes that of the calling thread.
  void ClearPrivate(int thread);
  // Part `index` of `parts` of: sum of head group += the copy of `thread`.
  void Reduce(int thread, int64_t group_index, int parts, int index);

  // Adds a sum over the blocks of queries [begin, begin + rows), in one run.
  void Add(int64_t begin, int64_t rows, std::span<const std::byte> sum);

  // Writes scale * dq [batch, q_len, heads, head_dim] in the view's type.
  void Finish(double scale, TensorView query_gradient);

 private:
  float* Sum() const { return reinterpret_cast<float*>(sum_.data()); }
  Panel Find(float* heads, int64_t head, int64_t begin) const;
  int64_t HeadElements() const { return columns_ * head_dim_; }

  Context& context_;
  int64_t batch_heads_;
  int64_t heads_;
  int64_t group_;  // heads that share a kv_head
  int64_t head_dim_;
  int64_t columns_ = 0;           // of all panels, padding included
  std::vector<RowBlock> panels_;  // every panel, in order
  std::vector<int64_t> offsets_;  // of each panel, in columns
  Buffer own_sum_;
  std::span<std::byte> sum_;    // [batch, heads, panels]
  std::vector<Buffer> copies_;  // of each thread, [group, panels]
};

}  // namespace ringwise
