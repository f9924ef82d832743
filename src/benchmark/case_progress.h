#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "training/progress.h"

namespace ringwise {

// How far a list of cases is, on stderr, with the time left: once it has taken two seconds.
class CaseProgress {
 public:
  // What each case costs, in any unit.
  CaseProgress(bool enabled, std::vector<double> costs);

  void Begin(const std::string& name);  // the next case
  void Update(double share);            // of the case, in [0, 1]

 private:
  using Clock = std::chrono::steady_clock;

  Progress progress_;
  std::vector<double> costs_;
  double total_ = 0;
  double before_ = 0;  // cost of the cases before this one
  size_t case_ = 0;    // from 1
  std::string name_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace ringwise
