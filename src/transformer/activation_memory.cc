#include "transformer/activation_memory.h"

namespace ringwise {

Activation ActivationMemory::Take(int64_t rows, int64_t columns) {
  if (const auto found = free_.find(columns); found != free_.end()) {
    Tensor memory = std::move(free_.extract(found).mapped());
    // One too short is freed before the next is made: the two never stand side by side.
    if (memory.shape()[0] >= rows) return {std::move(memory), rows};
  }
  return {Tensor(meter_, MemoryCategory::kActivations, dtype_, {rows, columns}), rows};
}

void ActivationMemory::Return(Activation activation) {
  if (!activation) return;
  Tensor memory = std::move(activation).ReleaseMemory();
  const int64_t columns = memory.shape()[1];
  free_.emplace(columns, std::move(memory));
}

}  // namespace ringwise
