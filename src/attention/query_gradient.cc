#include "attention/query_gradient.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/tile_kernels.h"
#include "kernels/transpose.h"

namespace ringwise {

QueryGradient::QueryGradient(Context& context, const AttentionShape& shape,
                             const std::vector<RowBlock>& blocks, std::span<std::byte> sum)
    : context_(context),
      batch_heads_(shape.batch * shape.heads),
      heads_(shape.heads),
      group_(shape.heads / shape.kv_heads),
      head_dim_(shape.head_dim),
      sum_(sum),
      copies_(context.team.size()) {
  for (const RowBlock& block : blocks) {
    for (int64_t begin = 0; begin < block.count(); begin += kPanel) {
      panels_.push_back(Part(block, begin, kPanel));
      offsets_.push_back(columns_);
      columns_ += RoundUp(panels_.back().count(), kLanes);
    }
  }
  const size_t bytes = batch_heads_ * HeadElements() * sizeof(float);
  assert(sum_.empty() || sum_.size() == bytes);
  if (!sum_.empty()) return;
  own_sum_ = Buffer(context.meter, MemoryCategory::kActivations, bytes);
  sum_ = own_sum_.bytes();
  context.team.Run([&](int thread) {
    const Range part = SplitRange(static_cast<int64_t>(bytes), context_.team.size(), thread, 4096);
    if (part.size() > 0) std::memset(sum_.data() + part.begin, 0, part.size());
  });
}

QueryGradient::Panel QueryGradient::Find(float* heads, int64_t head, int64_t begin) const {
  const auto panel = std::lower_bound(
      panels_.begin(), panels_.end(), begin,
      [](const RowBlock& block, int64_t local_index) { return block.begin < local_index; });
  assert(panel != panels_.end() && panel->begin == begin);
  return {heads + head * HeadElements() + offsets_[panel - panels_.begin()] * head_dim_,
          RoundUp(panel->count(), kLanes)};
}

void QueryGradient::MakePrivate(int thread) {
  Buffer& copy = copies_[thread];
  const size_t bytes = group_ * HeadElements() * sizeof(float);
  if (copy.size() != bytes) copy = Buffer(context_.meter, MemoryCategory::kWorkspace, bytes);
}

void QueryGradient::ClearPrivate(int thread) {
  const Buffer& copy = copies_[thread];
  std::memset(copy.data(), 0, copy.size());
}

void QueryGradient::Reduce(int thread, int64_t group_index, int parts, int index) {
  const int64_t elements = group_ * HeadElements();
  const Range part = SplitRange(elements, parts, index, 64);
  float* sum = Sum() + group_index * elements;
  const float* copy = copies_[thread].as<float>();
  for (int64_t i = part.begin; i < part.end; ++i) sum[i] += copy[i];
}

void QueryGradient::Add(int64_t begin, int64_t rows, std::span<const std::byte> sum) {
  const int64_t elements = RoundUp(rows, kLanes) * head_dim_;  // of a head
  assert(std::ssize(sum) == batch_heads_ * elements * static_cast<int64_t>(sizeof(float)));
  context_.team.ForEach(batch_heads_, [&](int64_t head, int) {
    float* to = At(kSum, head, begin).data;
    const float* from = reinterpret_cast<const float*>(sum.data()) + head * elements;
    for (int64_t i = 0; i < elements; ++i) to[i] += from[i];
  });
}

void QueryGradient::Finish(double scale, TensorView query_gradient) {
  const auto panels = static_cast<int64_t>(panels_.size());
  const auto factor = static_cast<float>(scale);
  context_.team.ForEach(batch_heads_ * panels, [&](int64_t index, int) {
    const int64_t batch_head = index / panels;
    const RowBlock& rows = panels_[index % panels];
    const Panel panel = At(kSum, batch_head, rows.begin);
    float transposed[kPanel * 256];
    Transpose(panel.data, panel.stride, head_dim_, rows.count(), transposed, head_dim_);
    DispatchDType(query_gradient.dtype, [&]<class T>(T) {
      for (int64_t row = 0; row < rows.count(); ++row) {
        T* to = query_gradient.at<T>(batch_head / heads_, rows.begin + row, batch_head % heads_);
        for (int64_t i = 0; i < head_dim_; ++i) {
          to[i] = T(factor * transposed[row * head_dim_ + i]);
        }
      }
    });
  });
}

}  // namespace ringwise
