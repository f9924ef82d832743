#include "benchmark/timing.h"

#include <time.h>

#include <algorithm>
#include <cassert>
#include <chrono>

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

double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

void CallTimes::Add(double seconds, double cpu_seconds) {
  seconds_.push_back(seconds);
  sum_ += seconds;
  cpu_sum_ += cpu_seconds;
}

void CallTimes::Time(const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  const double cpu_begin = CpuSeconds();
  call();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  Add(elapsed.count(), CpuSeconds() - cpu_begin);
}

bool CallTimes::Enough(double min_seconds) const {
  return seconds_.size() >= kLeastCalls && sum_ >= min_seconds;
}

double CallTimes::Share(double min_seconds) const {
  const double calls = static_cast<double>(seconds_.size()) / static_cast<double>(kLeastCalls);
  const double time = min_seconds > 0 ? sum_ / min_seconds : 1;
  return std::min({calls, time, 1.0});
}

void CallTimes::Summarize(BenchmarkResult& result) const {
  std::vector<double> sorted = seconds_;
  std::ranges::sort(sorted);
  result.calls = static_cast<int64_t>(sorted.size());
  result.seconds = Quantile(sorted, 0.5);
  result.best_seconds = sorted.front();
  result.mean_seconds = sum_ / static_cast<double>(sorted.size());
  result.spread = (Quantile(sorted, 0.75) - Quantile(sorted, 0.25)) / result.seconds;
  result.cores = cpu_sum_ / sum_;
}

double CallTimes::SpeedRatio(const CallTimes& other) const {
  assert(other.seconds_.size() == seconds_.size());
  std::vector<double> ratios;
  for (size_t turn = 0; turn < seconds_.size(); ++turn) {
    ratios.push_back(other.seconds_[turn] / seconds_[turn]);
  }
  std::ranges::sort(ratios);
  return Quantile(ratios, 0.5);
}

void PeakSamples::Add(const FlopRate& rate) {
  best_ = std::max(best_, rate.best);
  sum_ += rate.sustained;
  ++count_;
}

}  // namespace ringwise
