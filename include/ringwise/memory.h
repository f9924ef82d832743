#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace ringwise {

// What a piece of memory is for. Claims about memory come from a meter with these categories.
enum class MemoryCategory {
  kParameters,   // master weights and their copies in the compute type
  kGradients,    // of the parameters
  kOptimizer,    // moments
  kActivations,  // what a forward pass keeps, and gradients of activations
  kRingBuffers,  // key/value blocks and their gradients, held or in flight
  kWorkspace,    // tiles, packed operands, chunks of logits
};
inline constexpr int kMemoryCategories = 6;
std::string_view Name(MemoryCategory category);

// Counts the bytes one rank holds, by category, now and at the highest.
// Thread-safe. Must outlive every Buffer made from it.
class MemoryMeter {
 public:
  struct Reading {
    std::array<int64_t, kMemoryCategories> bytes{};
    int64_t total = 0;               // all categories, at one moment
    int64_t working = 0;             // activations + ring_buffers + workspace, at one moment
    int64_t largest_allocation = 0;  // of one buffer; only in a peak reading

    int64_t operator[](MemoryCategory category) const { return bytes[static_cast<int>(category)]; }
  };

  void Allocated(MemoryCategory category, int64_t bytes);
  void Freed(MemoryCategory category, int64_t bytes);

  Reading current() const;
  Reading peak() const;  // each field's own highest value: bytes need not add up to total
  void ResetPeak();      // peak() starts again from current()

 private:
  static void Raise(std::atomic<int64_t>& peak, int64_t value);

  std::array<std::atomic<int64_t>, kMemoryCategories> current_{};
  std::array<std::atomic<int64_t>, kMemoryCategories> peak_{};
  std::atomic<int64_t> total_{0}, peak_total_{0};
  std::atomic<int64_t> working_{0}, peak_working_{0};
  std::atomic<int64_t> largest_{0};
};

// `bytes`, or if they are many so many more that a Buffer of them lies in huge pages alone: for
// memory that one thread reads and writes all the time.
size_t InHugePages(size_t bytes);

// Owned memory, counted by a meter. Aligned to 64 bytes, large buffers to (huge) pages, which the
// system takes back at once when freed; contents start undefined. Untouched pages of a large buffer
// cost nothing, and the thread that first writes a page decides where it lives.
class Buffer {
 public:
  Buffer() = default;
  // Throws std::bad_alloc.
  Buffer(MemoryMeter& meter, MemoryCategory category, size_t bytes);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void swap(Buffer& other) noexcept;
  // From now on its bytes do not count: for memory that may outlive the meter.
  void StopMetering();
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }  // as asked for
  std::span<std::byte> bytes() const { return {data_, size_}; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  MemoryMeter* meter_ = nullptr;
  MemoryCategory category_ = MemoryCategory::kWorkspace;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Resident bytes of this process, now and at the highest, from the operating system.
int64_t ResidentBytes();
int64_t PeakResidentBytes();

}  // namespace ringwise
