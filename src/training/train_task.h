#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ringwise/launch.h"
#include "ringwise/llama.h"
#include "ringwise/trainer.h"
#include "training/metrics.h"
#include "training/progress.h"
#include "training/train_state.h"

namespace ringwise {

// What the passes of a step add up to: first this rank's part, then, summed by RankTrainer, that of
// all ranks.
struct TaskSums {
  double nats = 0;      // of the loss
  int64_t targets = 0;  // that `nats` is of: tokens predicted, or documents classified
  int64_t tokens = 0;   // trained on
  int64_t bytes = 0;    // targets that are bytes, where the task predicts text
  int64_t correct = 0;  // targets predicted right, where the task counts them
  double pairs = 0;     // of queries and keys that see each other, a head
};

// What a run trains: a model and its data, and what a step, an evaluation and a checkpoint of them
// are. RankTrainer has what is the same for all: schedule, optimizer, sums over ranks, finite
// checks, signals, records, folders. Each rank has its own, made by TaskData. All ranks make the
// same calls in the same order, so each may communicate, except where it says "rank 0 alone". The
// order is: Begin, or Resume; Schedule; after Resume, LoadWeights and ParametersChanged; Describe;
// then for each step BeginPhase if the phase is another, ZeroGradients, ForwardBackward,
// ParametersChanged, Report, and now and then Evaluate and SaveModel; Conclude before the last.
class TrainTask {
 public:
  virtual ~TrainTask() = default;

  // The run's phases, with the length of each: in steps, or in shares of the time for all of them.
  // A task that knows no contexts has one phase.
  virtual std::vector<ContextPhase> Schedule() const = 0;
  // What a step of the phase costs beside one of another: used for the time that is left.
  virtual double StepCost(const ContextPhase& phase) const = 0;

  // A new run: makes the model, with its first weights, and writes into `state` what identifies the
  // data and the model and must not change on resuming (but the seed). Throws UsageError,
  // FileError.
  virtual void Begin(TrainState& state) = 0;
  // A run that continues from `checkpoint`, whose state is given: checks that data and options are
  // still those that Begin saw, and makes the model of that shape; LoadWeights comes later. Throws
  // UsageError, FileError.
  virtual void Resume(const TrainState& state, const std::string& checkpoint) = 0;
  // Data and model as a person wants to know them before training begins, a line each.
  virtual std::vector<std::string> Describe() = 0;

  // Of the model; the same object from Begin or Resume on.
  virtual std::vector<Parameter>& parameters() = 0;
  // After values of parameters changed.
  virtual void ParametersChanged() = 0;
  virtual void ZeroGradients() = 0;

  // Before the first step of this process, and whenever the next step belongs to another phase.
  virtual void BeginPhase(const ContextPhase& phase, const TrainState& state) = 0;
  // The passes of the step after state.step. Adds this rank's part of the gradient of the step's
  // mean loss to the gradients: their sum over ranks is the gradient. Advances phase_sequences by
  // what all ranks together drew, and nothing else of `state`.
  virtual TaskSums ForwardBackward(TrainState& state) = 0;
  // Floating-point operations of the model in a step with these sums over all ranks, recomputation
  // not counted: what MFU counts.
  virtual double StepFlops(const TaskSums& sums) const = 0;
  // Figures of the task's own kind for such a step that took so long: bits_per_byte, accuracy,
  // documents_per_second, ...
  virtual Figures Report(const TaskSums& sums, double seconds) const = 0;

  // How good the model is now, on data that it is not trained on; nothing if there is no such data
  // or it was not asked for. Follows a step; says in notes how far it is.
  virtual Figures Evaluate(const TrainState& state, Progress& progress) = 0;
  // Figures that come once, after the run's last step and its evaluation. Memory taken here does
  // not count as the training's.
  virtual Figures Conclude(const TrainState& state, Progress& progress) = 0;

  // The model into `folder`, made if missing, and flushed to the disk. Rank 0 alone, in a thread of
  // its own while nothing else touches the model. Throws FileError.
  virtual void SaveModel(const std::string& folder) = 0;
  // The weights alone, back from there; ParametersChanged comes later. Throws FileError: missing,
  // truncated, other shapes.
  virtual void LoadWeights(const std::string& folder) = 0;
};

// A task's data, opened once for the ranks that are threads of this process, which all read it.
class TaskData {
 public:
  virtual ~TaskData() = default;

  // One rank's task on the data. What it refers to (this, `rank`) must outlive it. Collective.
  // Throws UsageError: the data is too little for the options.
  virtual std::unique_ptr<TrainTask> MakeTask(Rank& rank, const TrainOptions& options) const = 0;
};

}  // namespace ringwise
