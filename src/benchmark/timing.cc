#include "benchmark/timing.h"

#include <algorithm>
#include <chrono>
#include <numeric>

namespace ringwise {
namespace {

// Of sorted values, between neighbours.
double Quantile(const std::vector<double>& sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double weight = place - static_cast<double>(below);
  return (1 - weight) * sorted[below] + weight * sorted[above];
}

}  // namespace

void Summarize(std::vector<double> seconds, BenchmarkResult& result) {
  std::ranges::sort(seconds);
  result.calls = static_cast<int64_t>(seconds.size());
  result.seconds = Quantile(seconds, 0.5);
  result.best_seconds = seconds.front();
  result.spread = (Quantile(seconds, 0.75) - Quantile(seconds, 0.25)) / result.seconds;
}

double TimeCall(const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

bool Enough(const std::vector<double>& seconds, double min_seconds) {
  return seconds.size() >= 3 && std::accumulate(seconds.begin(), seconds.end(), 0.0) >= min_seconds;
}

}  // namespace ringwise
