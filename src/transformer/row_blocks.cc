#include "transformer/row_blocks.h"

#include <utility>

namespace ringwise {

namespace {

// From this many blocks of kBlockRows on, taking the workspace anew costs less than a hundredth of
// the time that a layer's blocks take.
constexpr int64_t kBlocksToRelease = 8;

}  // namespace

BlockWorkspace::BlockWorkspace(Gemm& gemm, const ModelConfig& config, DType compute, int64_t rows,
                               Memory memory, Blocks blocks)
    : gemm_(gemm),
      config_(config),
      compute_(compute),
      rows_(rows),
      block_rows_(
          std::max<int64_t>(1, blocks == Blocks::kWhole ? rows : std::min(kBlockRows, rows))),
      keeps_(memory == Memory::kKept),
      inverse_rms_(static_cast<size_t>(block_rows_)) {}

Tensor BlockWorkspace::Activation(int64_t columns) {
  if (const auto found = free_.find(columns); found != free_.end()) {
    return std::move(free_.extract(found).mapped());
  }
  return {gemm_.context().meter, MemoryCategory::kActivations, compute_, {rows_, columns}};
}

void BlockWorkspace::Recycle(Tensor activation) {
  if (keeps_ && activation) free_.emplace(activation.shape()[1], std::move(activation));
}

TensorView BlockWorkspace::Rows(Tensor& tensor, int64_t rows, int64_t columns) {
  if (!tensor) {
    // Whole sequences are activations like others.
    const MemoryCategory category =
        block_rows_ > kBlockRows ? MemoryCategory::kActivations : MemoryCategory::kWorkspace;
    tensor = Tensor(gemm_.context().meter, category, compute_, {block_rows_, columns});
  }
  return tensor.view().Slice(0, 0, rows);
}

void BlockWorkspace::Release() {
  const bool large = rows_ >= kBlocksToRelease * kBlockRows || block_rows_ > kBlockRows;
  if (keeps_ || !large) return;
  for (Tensor* tensor :
       {&residual_, &normed_, &normed_gradient_, &gate_up_, &inner_, &inner_gradient_}) {
    *tensor = Tensor();
  }
  gemm_.ReleaseWorkspace();
}

}  // namespace ringwise
