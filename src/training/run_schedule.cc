#include "training/run_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "ringwise/error.h"
#include "training/learning_rate.h"

namespace ringwise {

RunSchedule::RunSchedule(const TrainOptions& options, std::vector<ContextPhase> phases,
                         TrainState& state)
    : options_(options), state_(state), phases_(std::move(phases)), seconds_before_(state.seconds) {
  if (state_.phase >= static_cast<int64_t>(phases_.size())) {
    throw UsageError(fmt::format(
        "the run has reached phase {} of its context schedule, but the one given has {}",
        state_.phase + 1, phases_.size()));
  }
  if (timed()) return;
  for (const ContextPhase& phase : phases_) total_steps_ += phase.steps;
}

bool RunSchedule::PhaseIsOver() const {
  if (!timed()) return state_.phase_step >= phase().steps;
  double share = 0;
  for (int64_t p = 0; p <= state_.phase; ++p) share += phases_[static_cast<size_t>(p)].share;
  return state_.seconds >= share * options_.max_seconds;
}

bool RunSchedule::Finished() const {
  if (timed()) return state_.seconds >= options_.max_seconds;
  return state_.step >= total_steps_;
}

bool RunSchedule::Advance() {
  bool moved = false;
  while (PhaseIsOver() && state_.phase + 1 < static_cast<int64_t>(phases_.size())) {
    ++state_.phase;
    state_.phase_step = 0;
    state_.phase_sequences = 0;
    moved = true;
  }
  return moved;
}

double RunSchedule::LearningRate() const {
  const LearningRateSchedule schedule = {
      .peak = options_.learning_rate,
      .floor = options_.learning_rate * options_.learning_rate_floor,
      .warmup = options_.warmup};
  if (timed()) return schedule.At(state_.step, state_.seconds / options_.max_seconds);
  const auto after = static_cast<double>(std::max<int64_t>(1, total_steps_ - options_.warmup));
  return schedule.At(state_.step, static_cast<double>(state_.step - options_.warmup) / after);
}

double RunSchedule::RemainingSeconds(
    double step_seconds, const std::function<double(const ContextPhase& phase)>& step_cost) const {
  if (timed()) return options_.max_seconds - state_.seconds;
  auto steps = static_cast<double>(phase().steps - state_.phase_step);
  for (size_t p = static_cast<size_t>(state_.phase) + 1; p < phases_.size(); ++p) {
    steps += static_cast<double>(phases_[p].steps) * step_cost(phases_[p]) / step_cost(phase());
  }
  const double remaining = steps * step_seconds;
  if (options_.max_seconds <= 0) return remaining;
  return std::min(remaining, options_.max_seconds - (state_.seconds - seconds_before_));
}

}  // namespace ringwise
