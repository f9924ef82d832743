#pragma once

#include <functional>
#include <vector>

#include "ringwise/benchmark.h"

namespace ringwise {

// Fills calls, seconds, best_seconds and spread from the seconds of each call (at least one).
void Summarize(std::vector<double> seconds, BenchmarkResult& result);

// Seconds that `call` takes.
double TimeCall(const std::function<void()>& call);

// Whether `seconds` are enough calls: at least three, and `min_seconds` in all.
bool Enough(const std::vector<double>& seconds, double min_seconds);

}  // namespace ringwise
