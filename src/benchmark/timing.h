#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "ringwise/benchmark.h"
#include "ringwise/cpu.h"

namespace ringwise {

// Seconds of several calls, and the CPU seconds that all threads of this process spent in them.
class CallTimes {
 public:
  void Time(const std::function<void()>& call);
  // Whether these are enough calls: at least three, and `min_seconds` in all.
  bool Enough(double min_seconds) const;
  double Share(double min_seconds) const;  // of what is enough, in [0, 1]
  double seconds() const { return sum_; }  // in all
  // Fills calls, seconds, best_seconds, mean_seconds, spread and cores; of at least one call.
  void Summarize(BenchmarkResult& result) const;

  void Add(double seconds, double cpu_seconds);
  // The median over calls that took turns of other's seconds over these: each pair met the same
  // neighbours. Of as many calls of both.
  double SpeedRatio(const CallTimes& other) const;

 private:
  static constexpr size_t kLeastCalls = 3;

  std::vector<double> seconds_;
  double sum_ = 0;
  double cpu_sum_ = 0;
};

// The peak of BenchmarkResult: samples taken before, between and after calls.
class PeakSamples {
 public:
  void Add(const FlopRate& rate);
  double best() const { return best_; }
  double sustained() const { return sum_ / count_; }  // of at least one

 private:
  double best_ = 0;
  double sum_ = 0;
  int count_ = 0;
};

}  // namespace ringwise
