#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ringwise/classifier.h"
#include "training/classify_data.h"
#include "training/train_task.h"

namespace ringwise {

// A classifier that learns the classes of documents. A step takes the next documents of the epoch's
// order, packed into one sequence a pass; its number of passes and data-parallel groups changes
// nothing but rounding and dropout.
class ClassifyTask final : public TrainTask {
 public:
  // `rank` and `data` must outlive this.
  ClassifyTask(Rank& rank, const TrainOptions& options, const ClassifyData& data);

  std::vector<ContextPhase> Schedule() const override;
  double StepCost(const ContextPhase&) const override { return 1; }

  void Begin(TrainState& state) override;
  void Resume(const TrainState& state, const std::string& checkpoint) override;
  std::vector<std::string> Describe() override;

  std::vector<Parameter>& parameters() override { return model_->parameters(); }
  void ParametersChanged() override { model_->ParametersChanged(); }
  void ZeroGradients() override;

  void BeginPhase(const ContextPhase&, const TrainState&) override {}
  TaskSums ForwardBackward(TrainState& state) override;
  double StepFlops(const TaskSums& sums) const override;
  Figures Report(const TaskSums& sums, double seconds) const override;

  Figures Evaluate(const TrainState& state, Progress& progress) override;
  Figures Conclude(const TrainState& state, Progress& progress) override;

  void SaveModel(const std::string& folder) override;
  void LoadWeights(const std::string& folder) override;

 private:
  int64_t DocumentsAStep() const;
  // From here to the end of the epochs.
  int64_t StepsLeft() const;
  void MakeModel();
  // The documents of the step that begins after so many were drawn.
  std::vector<int64_t> DocumentsOfStep(int64_t drawn);
  // Of this rank's queries.
  double VisiblePairsOf(const DocumentBatch& batch) const;
  Figures Measure(const DocumentSet& documents, const std::string& name, const TrainState& state,
                  Progress& progress);

  Rank& rank_;
  TrainOptions options_;
  const ClassifyData& data_;
  std::unique_ptr<Classifier> model_;
  int64_t steps_before_ = 0;    // those of earlier processes, perhaps of other sizes,
  int64_t drawn_before_ = 0;    // and the documents they drew
  int64_t epoch_ = -1;          // that order_ is of
  std::vector<int64_t> order_;  // of the training documents
  DocumentSet::Rows rows_;      // of the pass
};

}  // namespace ringwise
