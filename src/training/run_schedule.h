#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ringwise/trainer.h"
#include "training/train_state.h"

namespace ringwise {

// Where a run stands in its context schedule, by steps or by time. Decides from `state` alone,
// which all ranks share, so they decide alike.
class RunSchedule {
 public:
  // `state` must outlive this; Advance writes its phase, phase_step and phase_sequences. Of
  // `options` the learning rate and the time limit are used. Throws UsageError if the state is
  // beyond the phases.
  RunSchedule(const TrainOptions& options, std::vector<ContextPhase> phases, TrainState& state);

  const std::vector<ContextPhase>& phases() const { return phases_; }
  const ContextPhase& phase() const { return phases_[static_cast<size_t>(state_.phase)]; }
  int64_t total_steps() const { return total_steps_; }  // 0 where time decides

  // Moves to the phase that the next step belongs to; true if that is another.
  bool Advance();
  bool Finished() const;
  // Learning rate of the next step.
  double LearningRate() const;
  // Seconds of training left, if steps of this phase take so long and those of others in
  // proportion to their `step_cost`.
  double RemainingSeconds(double step_seconds,
                          const std::function<double(const ContextPhase& phase)>& step_cost) const;

 private:
  bool timed() const { return phases_.front().share > 0; }
  bool PhaseIsOver() const;

  TrainOptions options_;
  TrainState& state_;
  std::vector<ContextPhase> phases_;
  int64_t total_steps_ = 0;
  double seconds_before_;  // of training, when this was made
};

}  // namespace ringwise
