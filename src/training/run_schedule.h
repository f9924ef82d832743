#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/model_config.h"
#include "ringwise/trainer.h"
#include "training/train_state.h"

namespace ringwise {

// Where a run stands in its context schedule, by steps or by time. Decides from `state` alone,
// which all ranks share, so they decide alike.
class RunSchedule {
 public:
  // `state` must outlive this; Advance writes its phase, phase_step and phase_sequences. Throws
  // UsageError if the state is beyond the schedule.
  RunSchedule(const TrainOptions& options, TrainState& state);

  const std::vector<ContextPhase>& phases() const { return phases_; }
  const ContextPhase& phase() const { return phases_[static_cast<size_t>(state_.phase)]; }
  int64_t total_steps() const { return total_steps_; }  // 0 where time decides

  // Moves to the phase that the next step belongs to; true if that is another.
  bool Advance();
  bool Finished() const;
  // Learning rate of the next step.
  double LearningRate() const;
  // Seconds of training left, if steps of this phase take so long and those of others in
  // proportion to their operations.
  double RemainingSeconds(double step_seconds, const ModelConfig& config) const;

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
