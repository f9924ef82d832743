#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "kernels/gemm.h"
#include "ringwise/model_config.h"
#include "ringwise/tensor.h"

namespace ringwise {

// Everything between attentions is done this many rows at a time, with the whole team on each
// block: long enough for products at full speed, short enough that a block's intermediates stay in
// the last-level cache.
inline constexpr int64_t kBlockRows = 512;

// Calls body(begin, count) for blocks of at most `block_rows` rows.
template <class Body>
void ForEachRowBlock(int64_t rows, int64_t block_rows, Body&& body) {
  for (int64_t begin = 0; begin < rows; begin += block_rows) {
    body(begin, std::min(block_rows, rows - begin));
  }
}

// The same, the rest cut into powers of two: however many numbers of rows come, the products meet
// few shapes, for each of which they keep primitives.
template <class Body>
void ForEachCommonBlock(int64_t rows, Body&& body) {
  int64_t block = kBlockRows;
  for (int64_t begin = 0; begin < rows; begin += block) {
    while (block > rows - begin) block /= 2;
    body(begin, block);
  }
}

// The memory of one pass through the model: the intermediates of one block, made when they are
// first asked for, and the activations that layers ask for.
class BlockWorkspace {
 public:
  enum class Memory {
    kFrugal,  // gives memory back as soon as it is not needed
    kKept,    // keeps it for the next layer and the next pass: saves the system's clearing of pages
  };
  enum class Blocks {
    kRows,   // of kBlockRows: no intermediate is ever tokens x anything
    kWhole,  // one block of all rows, as designs have it that hold whole sequences
  };
  BlockWorkspace(Gemm& gemm, const ModelConfig& config, DType compute, int64_t rows, Memory memory,
                 Blocks blocks);

  int64_t rows() const { return rows_; }
  int64_t block_rows() const { return block_rows_; }

  // Frees the intermediates, and the products' memory: what attention and the blocks need is not
  // needed at the same time. Does nothing if memory is kept, and for shards so short that nothing
  // would be gained.
  void Release();

  // An activation [rows, columns] in the compute type; contents undefined. Recycle takes it back.
  Tensor Activation(int64_t columns);
  void Recycle(Tensor activation);

  // Views of the first `rows` rows; contents undefined.
  TensorView residual(int64_t rows) { return Rows(residual_, rows, config_.hidden); }
  TensorView normed(int64_t rows) { return Rows(normed_, rows, config_.hidden); }
  TensorView normed_gradient(int64_t rows) { return Rows(normed_gradient_, rows, config_.hidden); }
  TensorView gate_up(int64_t rows) { return Rows(gate_up_, rows, 2 * config_.ffn); }
  TensorView inner(int64_t rows) { return Rows(inner_, rows, config_.ffn); }
  TensorView inner_gradient(int64_t rows) { return Rows(inner_gradient_, rows, config_.ffn); }
  std::span<float> inverse_rms(int64_t rows) {
    return {inverse_rms_.data(), static_cast<size_t>(rows)};
  }

 private:
  TensorView Rows(Tensor& tensor, int64_t rows, int64_t columns);

  Gemm& gemm_;
  const ModelConfig config_;
  DType compute_;
  int64_t rows_;
  int64_t block_rows_;
  bool keeps_;
  std::multimap<int64_t, Tensor> free_;         // by columns
  Tensor residual_, normed_, normed_gradient_;  // [block rows, hidden]
  Tensor gate_up_;                              // [block rows, 2 ffn]
  Tensor inner_, inner_gradient_;               // [block rows, ffn]
  std::vector<float> inverse_rms_;
};

}  // namespace ringwise
