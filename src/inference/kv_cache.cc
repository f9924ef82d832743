#include "inference/kv_cache.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "kernels/convert.h"

namespace ringwise {

KeyValueCache::KeyValueCache(Context& context, const ModelConfig& config, DType dtype)
    : context_(context),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      dtype_(dtype),
      layers_(static_cast<size_t>(config.layers)) {}

void KeyValueCache::Reset(Positions positions) {
  positions_ = std::move(positions);
  rows_ = 0;
  capacity_ = Count(positions_);
  for (Layer& layer : layers_) {
    Grow(layer.key);
    Grow(layer.value);
  }
  rows_ = capacity_;
}

int64_t KeyValueCache::FirstRowFrom(int64_t position) const {
  int64_t row = 0;
  for (const PositionRun& run : positions_) {
    const int64_t ahead = position - run.start;
    if (ahead > 0) row += std::min(run.count, (ahead + run.stride - 1) / run.stride);
  }
  return row;
}

void KeyValueCache::Grow(Tensor& tensor) {
  Tensor larger(context_.meter, MemoryCategory::kActivations, dtype_,
                {capacity_, kv_heads_, head_dim_});
  if (rows_ > 0) {
    const auto bytes = static_cast<size_t>(rows_ * kv_heads_ * head_dim_) * SizeOf(dtype_);
    std::memcpy(larger.view().memory, tensor.view().memory, bytes);
  }
  tensor = std::move(larger);
}

void KeyValueCache::AddRow(int64_t position) {
  if (rows_ == capacity_) {
    constexpr int64_t kLeast = 64;
    capacity_ = std::max(kLeast, rows_ + rows_ / 2);
    for (Layer& layer : layers_) {
      Grow(layer.key);
      Grow(layer.value);
    }
  }
  ++rows_;
  PositionRun* last = positions_.empty() ? nullptr : &positions_.back();
  assert(last == nullptr || position > last->last());
  if (last != nullptr && last->count == 1) last->stride = position - last->start;
  if (last != nullptr && position == (*last)[last->count]) {
    ++last->count;
  } else {
    positions_.push_back({position, 1, 1});
  }
}

void KeyValueCache::SetLast(int64_t layer, const float* key, const float* value) {
  Layer& tensors = layers_[static_cast<size_t>(layer)];
  DispatchDType(dtype_, [&]<class Element>(Element) {
    const int64_t width = kv_heads_ * head_dim_;
    Convert(key, tensors.key.data<Element>() + (rows_ - 1) * width, width);
    Convert(value, tensors.value.data<Element>() + (rows_ - 1) * width, width);
  });
}

}  // namespace ringwise
