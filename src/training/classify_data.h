#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ringwise/classify.h"
#include "training/train_task.h"

namespace ringwise {

// The documents of a classification task, read and cut into words once for the ranks that are
// threads of this process: those to train on, those for validation that were taken away from them,
// and those of the test, which nothing but the end of a run looks at.
class ClassifyData final : public TaskData {
 public:
  // Throws FileError, UsageError: as the readers of the data do; a held-out fraction that leaves a
  // class without examples.
  explicit ClassifyData(const TrainOptions& options);

  std::unique_ptr<TrainTask> MakeTask(Rank& rank, const TrainOptions& options) const override;

  // The model's configuration and what stands beside its weights.
  const ClassifierFolder& about() const { return about_; }
  const DocumentSet& train() const { return *train_; }
  const DocumentSet& validation() const { return *validation_; }
  const DocumentSet& test() const { return *test_; }
  int64_t words() const { return words_; }  // to train on; the rows of one synthetic sample
  // Every epoch in another order. Synthetic samples come in any order already, `train` has those of
  // all epochs, and more follow: none comes twice.
  bool shuffles() const { return shuffles_; }
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  void MakeSynthetic(const TrainOptions& options);
  void ReadTexts(const TrainOptions& options);

  ClassifierFolder about_;
  std::unique_ptr<DocumentSet> train_;
  std::unique_ptr<DocumentSet> validation_;
  std::unique_ptr<DocumentSet> test_;
  int64_t words_ = 0;
  bool shuffles_ = true;
  uint64_t fingerprint_ = 0;
};

}  // namespace ringwise
