#include "ringwise/trainer.h"

#include <memory>
#include <mutex>
#include <optional>

#include "core/out_of_memory.h"
#include "training/classify_data.h"
#include "training/language_task.h"
#include "training/progress.h"
#include "training/rank_trainer.h"
#include "training/signals.h"

namespace ringwise {
namespace {

std::unique_ptr<TaskData> Open(const TrainOptions& options) {
  if (options.task == Task::kLanguage) return std::make_unique<LanguageData>(options);
  return std::make_unique<ClassifyData>(options);
}

// What the ranks that are threads of one process share.
class Shared {
 public:
  const TaskData& OpenData(const Rank& rank, const TrainOptions& options) {
    const std::lock_guard lock(mutex_);
    if (!data_) {
      Progress progress(rank.world.rank() == 0 || !UnderMpi());
      progress.Note("opening the data");  // seconds, of a large archive
      data_ = Open(options);
    }
    return *data_;
  }
  void CatchSignals() {
    const std::lock_guard lock(mutex_);
    if (!catcher_) catcher_.emplace();
  }
  // After a failure nobody looks at them any more, and the job's launcher may use them to end it.
  void LetSignalsGo() {
    const std::lock_guard lock(mutex_);
    catcher_.reset();
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<TaskData> data_;
  std::optional<SignalCatcher> catcher_;
};

}  // namespace

TrainResult Train(const TrainOptions& given) {
  const TrainOptions options = WithDefaults(given);
  TrainResult result;
  Shared shared;
  const auto train = [&](Rank& rank) {
    Validate(options);
    if (options.task == Task::kLanguage) CheckRingOf(options.attention, rank.ring.size());
    RankTrainer trainer(rank, options, shared.OpenData(rank, options).MakeTask(rank, options));
    shared.CatchSignals();
    try {
      const TrainResult mine = trainer.Run();
      if (rank.world.rank() == 0 || UnderMpi()) result = mine;
    } catch (...) {
      shared.LetSignalsGo();
      throw;
    }
  };
  Launch(options.mesh, [&](Rank& rank) {
    ExplainOutOfMemory("use more hosts, a shorter context, a smaller batch or --recompute block",
                       [&] { train(rank); });
  });
  return result;
}

}  // namespace ringwise
