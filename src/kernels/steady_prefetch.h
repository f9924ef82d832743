#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace ringwise {

// Brings memory that will be needed soon to the second cache: line by line while work is done, so
// that products and waiting for memory overlap. Asked for at once, lines would be waited for. Each
// area is read in several parts side by side: a core's prefetcher follows every part's lines,
// twenty ahead at most, and together they keep more on their way than a core's own loads can (ten
// to sixteen). No more than a hint: what was not asked for in time is only slower.
class SteadyPrefetch {
 public:
  // `rows` rows of `row_bytes`, `stride` bytes apart.
  struct Area {
    const void* memory = nullptr;
    int64_t stride = 0;
    int64_t rows = 0;
    int64_t row_bytes = 0;
  };

  // Forgets what it had. What it fetches now is spread over so much work, in any unit.
  void Start(const Area& first, const Area& second, int64_t work) {
    parts_[0] = Parts(first);
    parts_[1] = Parts(second);
    const int64_t steps = std::max(parts_[0].lines(), parts_[1].lines());
    work_a_step_ = steps == 0 ? kNever : std::max<int64_t>(1, work / steps);
    worked_ = 0;
  }

  void Worked(int64_t work) {
    worked_ += work;
    while (worked_ >= work_a_step_) {
      worked_ -= work_a_step_;
      Step();
    }
  }

  // Asks for whatever is left.
  void Finish() {
    while (work_a_step_ != kNever) Step();
  }

 private:
  static constexpr int kParts = 2;  // of an area
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  // An area's next line in its first part; in the others the same.
  struct Parts {
    Parts() = default;
    explicit Parts(const Area& area)
        : at(static_cast<const char*>(area.memory)),
          stride(area.stride),
          row_lines((area.row_bytes + kLine - 1) / kLine),
          rows((area.rows + kParts - 1) / kParts),
          distance(rows * stride) {}

    int64_t lines() const { return rows * row_lines; }

    void Step() {
      if (rows == 0) return;
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        __builtin_prefetch(at + line * kLine + part * distance, 0, 2);
      }
      if (++line < row_lines) return;
      line = 0;
      at += stride;
      --rows;
    }

    const char* at = nullptr;  // the row
    int64_t stride = 0;
    int64_t row_lines = 0;
    int64_t rows = 0;  // left
    int64_t distance = 0;
    int64_t line = 0;
  };

  void Step() {
    parts_[0].Step();
    parts_[1].Step();
    if (parts_[0].rows + parts_[1].rows == 0) work_a_step_ = kNever;
  }

  Parts parts_[2];
  int64_t work_a_step_ = kNever;
  int64_t worked_ = 0;  // since the last step
};

}  // namespace ringwise
