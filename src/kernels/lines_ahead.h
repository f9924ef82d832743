#pragma once

#include <algorithm>
#include <cstdint>

namespace ringwise {

// Asks for a row that is needed a few rows from now: rows that lie apart come one by one otherwise,
// each waited for.
inline void AskForRow(const void* row, int64_t bytes) {
  constexpr int64_t kLine = 64;
  const char* at = static_cast<const char*>(row);
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(at + i, 0, 3);
}

// Memory that will be needed soon. Kernels bring it to the second cache in passing, a few lines
// after each of their register tiles: asked for at once, lines would be waited for. No more than a
// hint: a line that was not asked for in time is only slower. Not for two threads at once.
class LinesAhead {
 public:
  // Forgets what was added before. What is added next is spread over `calls` calls of Fetch.
  void Start(int64_t calls) {
    areas_ = 0;
    area_ = 0;
    lines_ = 0;
    calls_ = std::max<int64_t>(calls, 1);
    at_ = end_ = nullptr;
  }

  // `rows` rows of `row_bytes`, `stride` bytes apart; no more than four areas are kept.
  void Add(const void* memory, int64_t stride, int64_t rows, int64_t row_bytes) {
    if (areas_ == kAreas || rows <= 0) return;
    list_[areas_++] = {static_cast<const char*>(memory), stride, rows, row_bytes};
    lines_ += rows * ((row_bytes + kLine - 1) / kLine);
    each_ = std::min((lines_ + calls_ - 1) / calls_, kMost);
  }

  void Fetch() {
    for (int64_t i = 0; i < each_; ++i) {
      if (at_ >= end_ && !NextRow()) return;
      __builtin_prefetch(at_, 0, 2);
      at_ += kLine;
    }
  }

 private:
  static constexpr int kAreas = 4;
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kMost = 16;  // fewer than a core has misses in flight

  struct Area {
    const char* row = nullptr;
    int64_t stride = 0;
    int64_t rows = 0;  // left
    int64_t row_bytes = 0;
  };

  bool NextRow() {
    while (area_ < areas_ && list_[area_].rows == 0) ++area_;
    if (area_ == areas_) return false;
    Area& area = list_[area_];
    at_ = area.row;
    end_ = area.row + area.row_bytes;
    area.row += area.stride;
    --area.rows;
    return true;
  }

  Area list_[kAreas];
  int areas_ = 0;
  int area_ = 0;
  int64_t lines_ = 0;
  int64_t calls_ = 1;
  int64_t each_ = 0;
  const char* at_ = nullptr;  // the next line
  const char* end_ = nullptr;
};

}  // namespace ringwise
