#pragma once

#include <cstddef>
#include <cstdint>

namespace ringwise {

// Hands out arrays from one buffer, in order, each as aligned as the buffer, to 64 bytes at most.
// Two passes: one without memory that counts bytes, one that hands out.
class Arena {
 public:
  Arena() = default;
  explicit Arena(std::byte* memory) : memory_(memory) {}

  template <class T>
  T* Take(int64_t count) {
    // Arrays whose distance is a multiple of 4096 bytes would evict each other.
    constexpr size_t kLine = 64;
    const size_t begin = used_;
    used_ =
        (used_ + static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine + 5 * kLine;
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin);
  }
  size_t used() const { return used_; }

 private:
  std::byte* memory_ = nullptr;
  size_t used_ = 0;
};

}  // namespace ringwise
