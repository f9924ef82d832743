#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "ringwise/launch.h"
#include "ringwise/trainer.h"
#include "training/metrics.h"
#include "training/optimizer.h"
#include "training/peak_sampler.h"
#include "training/progress.h"
#include "training/run_lock.h"
#include "training/run_schedule.h"
#include "training/step_sums.h"
#include "training/train_task.h"

namespace ringwise {

// One rank's part of Train. Every rank holds the whole model and takes the same decisions from the
// same sums, so all step, evaluate, save and stop together; rank 0 alone writes files and speaks.
class RankTrainer {
 public:
  // Makes or loads the task's model; with the data and the options checked, makes the run folder.
  // `rank` must outlive this. Collective.
  RankTrainer(Rank& rank, const TrainOptions& options, std::unique_ptr<TrainTask> task);

  // Trains to the end of the schedule, or until told to stop. Collective.
  TrainResult Run();

  // What Run is made of, for those who only measure steps. Nothing is written.
  void StartClock() { started_ = Clock::now(); }       // before the first step
  void SamplePeak() { peak_.Sample(state_.seconds); }  // of the machine, now and then. Collective
  // One step of the schedule, which must not be at its end. `stop` says why training ends with it,
  // if it does. Collective.
  StepRecord TakeStep(std::optional<StopReason>& stop);

 private:
  using Clock = std::chrono::steady_clock;

  bool leads() const { return rank_.world.rank() == 0; }
  double SecondsHere() const;

  void OpenCheckpoint();
  void StartFolder();
  void OpenRecords();  // once the first step is done: a resumed run's files change from here on
  void Announce();

  void EnterPhase();  // makes ready for the phase that the next step belongs to
  StepSums ForwardBackward();
  void CheckFinite(const StepSums& sums, double gradient_norm) const;
  void CheckFiniteState(const StepRecord& record) const;
  std::string LastGood() const;
  void SampleLastPeak(StepRecord& record);
  void Save();
  std::string RunFolder() const;

  std::unique_ptr<RunLock> lock_;  // on rank 0, for as long as this lives
  Rank& rank_;
  TrainOptions options_;
  std::unique_ptr<TrainTask> task_;
  std::unique_ptr<AdamW> optimizer_;
  TrainState state_;
  std::unique_ptr<RunSchedule> schedule_;
  double seconds_before_ = 0;  // of training, in earlier processes
  Clock::time_point started_;

  bool in_phase_ = false;  // the task has been told of the current phase
  PeakSampler peak_;
  int64_t bytes_sent_before_ = 0;
  std::string last_checkpoint_;
  std::unique_ptr<MetricsFile> metrics_;  // on rank 0
  Progress progress_;
};

}  // namespace ringwise
