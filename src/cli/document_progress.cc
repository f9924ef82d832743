#include "cli/document_progress.h"

#include <fmt/format.h>

#include <chrono>

namespace ringwise {

std::function<void(int64_t, int64_t)> ShowDocuments(Progress& progress) {
  using Clock = std::chrono::steady_clock;
  constexpr double kSilentSeconds = 2;
  return [&progress, begin = Clock::now()](int64_t done, int64_t in_all) {
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (seconds < kSilentSeconds || done == in_all) return;
    const double left = seconds * static_cast<double>(in_all - done) / static_cast<double>(done);
    progress.Update(fmt::format("{} of {} documents  left {}", done, in_all, FormatDuration(left)));
  };
}

}  // namespace ringwise
