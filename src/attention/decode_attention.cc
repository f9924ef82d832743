#include "attention/decode_attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

#include "kernels/row_attention.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

// Positions whose keys and values of one head stay in the second-level cache while all its query
// heads read them, yet enough to outweigh the start of a task.
constexpr int64_t kBlock = 512;

void CheckCache(const char* name, const ConstTensorView& view, const DecodeShape& shape) {
  const Shape& found = view.shape;
  if (found.rank() != 3 || found[1] != shape.kv_heads || found[2] != shape.head_dim ||
      view.dtype != shape.dtype || !view.contiguous()) {
    throw ShapeError(
        std::string("cached ") + name + ": expected contiguous " +
        Shape({found.rank() > 0 ? found[0] : 0, shape.kv_heads, shape.head_dim}).ToString() +
        " of " + std::string(Name(shape.dtype)) + ", found " + found.ToString());
  }
}

}  // namespace

template <class Element>
void DecodeAttention::AttendBlock(const float* query, ConstTensorView key, ConstTensorView value,
                                  int64_t begin, int64_t kv_head,
                                  const PartialAttention& block) const {
  const KeyValueRows<Element> rows = {key.at<Element>(begin, kv_head), key.strides[0],
                                      value.at<Element>(begin, kv_head), value.strides[0],
                                      std::min(kBlock, key.shape[0] - begin)};
  const int64_t group = shape_.heads / shape_.kv_heads;
  const double scale = shape_.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape_.head_dim)));
  const auto to_base_2 = static_cast<float>(scale * std::numbers::log2e);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    AttentionRow row{.query = query + head * shape_.head_dim,
                     .output = block.output + head * shape_.head_dim};
    AttendRow(rows, shape_.head_dim, shape_.head_dim, to_base_2, row);
    block.row_max[head] = row.row_max;
    block.row_sum[head] = row.row_sum;
  }
}

void DecodeAttention::Attend(const float* query, ConstTensorView key, ConstTensorView value,
                             const PartialAttention& partial) {
  CheckCache("key", key, shape_);
  CheckCache("value", value, shape_);
  if (value.shape != key.shape) throw ShapeError("cached key and value differ in length");
  assert(partial.rows == shape_.heads && partial.head_dim == shape_.head_dim);

  const int64_t count = key.shape[0];
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const int64_t floats = shape_.heads * (shape_.head_dim + 2);  // of a block's partial result
  const auto bytes = static_cast<size_t>(blocks * floats) * sizeof(float);
  if (blocks_.size() < bytes) {
    blocks_ = Buffer();  // freed before the larger one is made
    blocks_ = Buffer(context_.meter, MemoryCategory::kWorkspace, 2 * bytes);
  }
  const auto block_at = [&](int64_t index) {
    float* memory = blocks_.as<float>() + index * floats;
    float* row_max = memory + shape_.heads * shape_.head_dim;
    return PartialAttention{memory, row_max, row_max + shape_.heads, shape_.heads, shape_.head_dim};
  };
  context_.team.ForEach(blocks * shape_.kv_heads, [&](int64_t task, int /*thread*/) {
    const int64_t index = task / shape_.kv_heads;
    const int64_t kv_head = task % shape_.kv_heads;
    DispatchDType(shape_.dtype, [&]<class Element>(Element) {
      AttendBlock<Element>(query, key, value, index * kBlock, kv_head, block_at(index));
    });
  });
  std::fill_n(partial.row_sum, partial.rows, 0.0f);
  for (int64_t index = 0; index < blocks; ++index) Merge(block_at(index), partial);
}

}  // namespace ringwise
