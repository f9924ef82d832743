#include "benchmark/case_progress.h"

#include <fmt/format.h>

#include <numeric>
#include <utility>

namespace ringwise {

CaseProgress::CaseProgress(bool enabled, std::vector<double> costs)
    : progress_(enabled),
      costs_(std::move(costs)),
      total_(std::accumulate(costs_.begin(), costs_.end(), 0.0)) {}

void CaseProgress::Begin(const std::string& name) {
  if (case_ > 0) before_ += costs_[case_ - 1];
  ++case_;
  name_ = name;
  Update(0);
}

void CaseProgress::Update(double share) {
  constexpr std::chrono::seconds kPatience{2};
  const Clock::duration elapsed = Clock::now() - start_;
  if (elapsed < kPatience) return;
  const double done = before_ + share * costs_[case_ - 1];
  const double seconds = std::chrono::duration<double>(elapsed).count();
  progress_.Update(fmt::format("case {}/{}  {}", case_, costs_.size(), name_) +
                   (done > 0 ? "  left " + FormatDuration(seconds * (total_ - done) / done) : ""));
}

}  // namespace ringwise
