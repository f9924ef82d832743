#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "ringwise/context.h"
#include "ringwise/tensor.h"

namespace ringwise {

// A tensor [rows, columns] in memory that may be of more rows; see ActivationMemory.
class Activation {
 public:
  Activation() = default;
  Activation(Tensor memory, int64_t rows) : memory_(std::move(memory)), rows_(rows) {}

  TensorView view() { return memory_.view().Slice(0, 0, rows_); }
  ConstTensorView view() const { return memory_.view().Slice(0, 0, rows_); }
  explicit operator bool() const { return static_cast<bool>(memory_); }
  Tensor ReleaseMemory() && { return std::move(memory_); }

 private:
  Tensor memory_;
  int64_t rows_ = 0;
};

// Activations of one type whose memory is kept for the next layer and the next pass, of however
// many rows: the system clears the pages of fresh memory. What is not returned is freed as any
// tensor. Not thread-safe.
class ActivationMemory {
 public:
  ActivationMemory(MemoryMeter& meter, DType dtype) : meter_(meter), dtype_(dtype) {}

  Activation Take(int64_t rows, int64_t columns);  // contents undefined
  void Return(Activation activation);

 private:
  MemoryMeter& meter_;
  const DType dtype_;
  std::multimap<int64_t, Tensor> free_;  // by columns
};

}  // namespace ringwise
