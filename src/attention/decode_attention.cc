#include "attention/decode_attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

#include "kernels/row_attention.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

// Positions of a task: enough to outweigh its partial result.
constexpr int64_t kBlock = 256;

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
                                  int64_t begin, const PartialAttention& block) const {
  const double scale = shape_.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape_.head_dim)));
  std::fill_n(block.row_sum, block.rows, 0.0f);
  const auto matrix = [&](const ConstTensorView& view) -> typename KeyValueRows<Element>::Matrix {
    return {view.at<Element>(begin), view.strides[0], view.strides[1]};
  };
  AttendRows({matrix(key), matrix(value), std::min(kBlock, key.shape[0] - begin)},
             {.kv_heads = shape_.kv_heads,
              .rows = shape_.heads / shape_.kv_heads,
              .head_dim = shape_.head_dim,
              .value_dim = shape_.head_dim,
              .scale = static_cast<float>(scale * std::numbers::log2e),
              .query = query,
              .output = block.output,
              .row_max = block.row_max,
              .row_sum = block.row_sum});
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
  context_.team.ForEach(blocks, [&](int64_t index, int /*thread*/) {
    DispatchDType(shape_.dtype, [&]<class Element>(Element) {
      AttendBlock<Element>(query, key, value, index * kBlock, block_at(index));
    });
  });
  std::fill_n(partial.row_sum, partial.rows, 0.0f);
  for (int64_t index = 0; index < blocks; ++index) Merge(block_at(index), partial);
}

}  // namespace ringwise
