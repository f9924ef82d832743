#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ringwise/corpus.h"
#include "ringwise/launch.h"
#include "ringwise/llama.h"
#include "ringwise/trainer.h"
#include "training/checkpoint.h"
#include "training/metrics.h"
#include "training/optimizer.h"
#include "training/progress.h"
#include "training/run_lock.h"
#include "training/run_schedule.h"
#include "training/sequence_reader.h"

namespace ringwise {

// One rank's part of Train. Every rank holds the whole model and takes the same decisions from the
// same sums, so all step, evaluate, save and stop together; rank 0 alone writes files and speaks.
class RankTrainer {
 public:
  // Makes or loads the model; with the data and the options checked, makes the run folder.
  // Collective.
  RankTrainer(Rank& rank, const TrainOptions& options, const Corpus& corpus);

  // Trains to the end of the schedule, or until told to stop. Collective.
  TrainResult Run();

  // What Run is made of, for those who only measure steps. Nothing is written.
  void StartClock() { started_ = Clock::now(); }  // before the first step
  void SamplePeak();                              // of the machine, now and then. Collective
  // One step of the schedule, which must not be at its end. `stop` says why training ends with it,
  // if it does. Collective.
  StepRecord TakeStep(std::optional<StopReason>& stop);

 private:
  using Clock = std::chrono::steady_clock;

  // What the ranks agree on in one sum, once a step.
  struct StepSums {
    double nats = 0;
    int64_t targets = 0;
    int64_t bytes = 0;  // targets that are no separators
    int64_t bytes_sent = 0;
    double pairs = 0;                           // of queries and keys that see each other, a head
    double attention_work = 1;                  // the busiest rank's over the mean
    double seconds = 0;                         // of this process's training, by rank 0's clock
    StopReason signal = StopReason::kFinished;  // kFinished: none
  };

  bool leads() const { return rank_.world.rank() == 0; }
  const ContextPhase& phase() const { return schedule_->phase(); }
  double SecondsHere() const;

  void MakeModel();
  void Resume();
  void StartFolder();
  void OpenRecords();  // once the first step is done: a resumed run's files change from here on
  void Announce();

  void EnterPhase();  // makes ready for the phase that the next step belongs to
  void SampleLastPeak(StepRecord& record);
  double PhaseTheta() const;

  StepSums ForwardBackward();
  // Of a pass that begins with this sequence of the step.
  Dropout StepDropout(int64_t first_sequence) const;
  double VisiblePairsOf(const TokenBatch& batch) const;  // of this rank's queries, a head
  void CheckFinite(const StepSums& sums, double gradient_norm) const;
  void CheckFiniteState(const StepRecord& record) const;
  std::string LastGood() const;
  void EvaluateHeldout(StepRecord& record);
  // Rank 0 does the work while the others wait for it, however long it takes. Collective; the work
  // does not communicate.
  void LeadAlone(const std::function<void()>& work);
  void Save();
  std::string RunFolder() const;

  std::unique_ptr<RunLock> lock_;  // on rank 0, for as long as this lives
  Rank& rank_;
  TrainOptions options_;
  const Corpus& corpus_;
  std::unique_ptr<Llama> model_;
  std::unique_ptr<AdamW> optimizer_;
  TrainState state_;
  std::unique_ptr<RunSchedule> schedule_;
  double seconds_before_ = 0;  // of training, in earlier processes
  Clock::time_point started_;

  std::unique_ptr<SequenceReader> reader_;  // of the current phase
  double peak_flops_ = 0;                   // the best sample so far
  double peak_sampled_at_ = 0;
  double peak_sampled_for_ = 0;  // seconds in all
  int64_t bytes_sent_before_ = 0;
  std::string last_checkpoint_;
  std::unique_ptr<MetricsFile> metrics_;  // on rank 0
  Progress progress_;
};

}  // namespace ringwise
