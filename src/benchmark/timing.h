#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "ringwise/benchmark.h"

namespace ringwise {

// Seconds of several calls, and the CPU seconds that all threads of this process spent in them.
class CallTimes {
 public:
  void Time(const std::function<void()>& call);
  // Whether these are enough calls: at least three, and `min_seconds` in all.
  bool Enough(double min_seconds) const;
  double Share(double min_seconds) const;  // of what is enough, in [0, 1]
  double seconds() const { return sum_; }  // in all
  // Fills calls, seconds, best_seconds, spread and cores; of at least one call.
  void Summarize(BenchmarkResult& result) const;

  void Add(double seconds, double cpu_seconds);

 private:
  static constexpr size_t kLeastCalls = 3;

  std::vector<double> seconds_;
  double sum_ = 0;
  double cpu_sum_ = 0;
};

}  // namespace ringwise
