#include "transformer/row_blocks.h"

namespace ringwise {

BlockWorkspace::BlockWorkspace(Context& context, const ModelConfig& config, DType compute,
                               int64_t rows)
    : block_rows_(std::max<int64_t>(1, std::min(kBlockRows, rows))),
      inverse_rms_(static_cast<size_t>(block_rows_)) {
  const auto make = [&](int64_t columns) {
    return Tensor(context.meter, MemoryCategory::kWorkspace, compute, {block_rows_, columns});
  };
  residual_ = make(config.hidden);
  normed_ = make(config.hidden);
  normed_gradient_ = make(config.hidden);
  gate_up_ = make(2 * config.ffn);
  inner_ = make(config.ffn);
  inner_gradient_ = make(config.ffn);
}

}  // namespace ringwise
