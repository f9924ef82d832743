#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ringwise/corpus.h"
#include "ringwise/llama.h"
#include "training/sequence_reader.h"
#include "training/train_task.h"

namespace ringwise {

// A Llama that learns to predict the next byte of text. Its phases are contexts: with each the
// rotary base changes, and the data order begins anew.
class LanguageTask final : public TrainTask {
 public:
  // `rank` and `corpus` must outlive this. Throws UsageError: less text than a context.
  LanguageTask(Rank& rank, const TrainOptions& options, const Corpus& corpus);

  std::vector<ContextPhase> Schedule() const override;
  double StepCost(const ContextPhase& phase) const override;

  void Begin(TrainState& state) override;
  void Resume(const TrainState& state, const std::string& checkpoint) override;
  std::vector<std::string> Describe() override;

  std::vector<Parameter>& parameters() override { return model_->parameters(); }
  void ParametersChanged() override { model_->ParametersChanged(); }
  void ZeroGradients() override { model_->ZeroGradients(); }

  void BeginPhase(const ContextPhase& phase, const TrainState& state) override;
  TaskSums ForwardBackward(TrainState& state) override;
  double StepFlops(const TaskSums& sums) const override;
  Figures Report(const TaskSums& sums, double seconds) const override;

  Figures Evaluate(const TrainState& state, Progress& progress) override;
  Figures Conclude(const TrainState& state, Progress& progress) override;

  void SaveModel(const std::string& folder) override;
  void LoadWeights(const std::string& folder) override;

 private:
  void SetRope(const TrainState& state);
  ModelConfig WithPositions(ModelConfig config) const;
  bool Evaluates() const;
  // Of a pass that begins with this sequence of the step.
  Dropout StepDropout(const TrainState& state, int64_t first_sequence) const;
  double VisiblePairsOf(const TokenBatch& batch) const;  // of this rank's queries, a head

  Rank& rank_;
  TrainOptions options_;
  const Corpus& corpus_;
  std::unique_ptr<Llama> model_;
  double rope_base_ = 0;
  int64_t rope_reference_ = 0;

  ContextPhase phase_;
  double rope_theta_ = 0;                   // of the phase
  std::unique_ptr<SequenceReader> reader_;  // of the phase
};

// Text, mapped and indexed once.
class LanguageData final : public TaskData {
 public:
  // Throws as Corpus does.
  explicit LanguageData(const TrainOptions& options);

  std::unique_ptr<TrainTask> MakeTask(Rank& rank, const TrainOptions& options) const override;

 private:
  Corpus corpus_;
};

}  // namespace ringwise
