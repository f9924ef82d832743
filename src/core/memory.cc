#include "ringwise/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <new>
#include <utility>

namespace ringwise {
namespace {

constexpr size_t kAlignment = 64;
// From here on a buffer is its own mapping, so that freeing it returns its pages: metered and
// resident memory then agree. Below, the general allocator is faster and its slack is small.
constexpr size_t kMappedBytes = 256 << 10;
constexpr size_t kPage = 4 << 10;
constexpr size_t kHugePage = 2 << 20;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

bool IsMapped(size_t bytes) { return bytes >= kMappedBytes; }

// Fresh pages. The whole huge pages among them are asked for as such: fewer page faults, and tiles
// that lie apart stay within reach of the address cache. The rest stays in small pages, so that no
// more becomes resident than was asked for.
std::byte* Map(size_t bytes) {
  const size_t huge = bytes / kHugePage * kHugePage;
  const size_t spare = huge > 0 ? kHugePage : 0;
  const size_t length = RoundUp(bytes, kPage);
  void* mapped =
      mmap(nullptr, length + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  if (huge == 0) return static_cast<std::byte*>(mapped);
  const auto address = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t begin = RoundUp(address, kHugePage);
  if (begin > address) munmap(mapped, begin - address);
  if (address + spare > begin) {
    munmap(reinterpret_cast<void*>(begin + length), address + spare - begin);
  }
  madvise(reinterpret_cast<void*>(begin), huge, MADV_HUGEPAGE);
  return reinterpret_cast<std::byte*>(begin);
}

bool IsWorking(MemoryCategory category) {
  return category == MemoryCategory::kActivations || category == MemoryCategory::kRingBuffers ||
         category == MemoryCategory::kWorkspace;
}

}  // namespace

std::string_view Name(MemoryCategory category) {
  static constexpr std::string_view kNames[kMemoryCategories] = {
      "parameters", "gradients", "optimizer", "activations", "ring_buffers", "workspace"};
  return kNames[static_cast<int>(category)];
}

void MemoryMeter::Raise(std::atomic<int64_t>& peak, int64_t value) {
  int64_t seen = peak.load(std::memory_order_relaxed);
  while (seen < value && !peak.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

void MemoryMeter::Allocated(MemoryCategory category, int64_t bytes) {
  const int c = static_cast<int>(category);
  Raise(peak_[c], current_[c] += bytes);
  Raise(peak_total_, total_ += bytes);
  if (IsWorking(category)) Raise(peak_working_, working_ += bytes);
  Raise(largest_, bytes);
}

void MemoryMeter::Freed(MemoryCategory category, int64_t bytes) {
  current_[static_cast<int>(category)] -= bytes;
  total_ -= bytes;
  if (IsWorking(category)) working_ -= bytes;
}

MemoryMeter::Reading MemoryMeter::current() const {
  Reading reading;
  for (int c = 0; c < kMemoryCategories; ++c) reading.bytes[c] = current_[c];
  reading.total = total_;
  reading.working = working_;
  return reading;
}

MemoryMeter::Reading MemoryMeter::peak() const {
  Reading reading;
  for (int c = 0; c < kMemoryCategories; ++c) reading.bytes[c] = peak_[c];
  reading.total = peak_total_;
  reading.working = peak_working_;
  reading.largest_allocation = largest_;
  return reading;
}

void MemoryMeter::ResetPeak() {
  for (int c = 0; c < kMemoryCategories; ++c) peak_[c] = current_[c].load();
  peak_total_ = total_.load();
  peak_working_ = working_.load();
  largest_ = 0;
}

size_t InHugePages(size_t bytes) { return IsMapped(bytes) ? RoundUp(bytes, kHugePage) : bytes; }

Buffer::Buffer(MemoryMeter& meter, MemoryCategory category, size_t bytes)
    : meter_(&meter), category_(category), size_(bytes) {
  if (bytes == 0) return;
  if (IsMapped(bytes)) {
    data_ = Map(bytes);
  } else {
    data_ = static_cast<std::byte*>(std::aligned_alloc(kAlignment, RoundUp(bytes, kAlignment)));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  meter_->Allocated(category_, static_cast<int64_t>(size_));
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (IsMapped(size_)) {
    munmap(data_, size_);
  } else {
    std::free(data_);
  }
  StopMetering();
}

void Buffer::StopMetering() {
  if (meter_ == nullptr) return;
  meter_->Freed(category_, static_cast<int64_t>(size_));
  meter_ = nullptr;
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(meter_, other.meter_);
  std::swap(category_, other.category_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

int64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace ringwise
