#include "ringwise/trainer.h"

#include <memory>
#include <mutex>

#include "training/rank_trainer.h"
#include "training/signals.h"

namespace ringwise {

TrainResult Train(const TrainOptions& given) {
  const TrainOptions options = WithDefaults(given);
  const SignalCatcher catcher;
  TrainResult result;
  // The data is mapped and indexed once a process: ranks that are its threads share it.
  std::mutex mutex;
  std::unique_ptr<Corpus> corpus;
  Launch(options.mesh, [&](Rank& rank) {
    Validate(options);
    {
      const std::lock_guard lock(mutex);
      if (!corpus) {
        corpus =
            std::make_unique<Corpus>(CorpusOptions{.paths = options.data,
                                                   .heldout_fraction = options.heldout_fraction,
                                                   .seed = options.seed});
      }
    }
    RankTrainer trainer(rank, options, *corpus);
    const TrainResult mine = trainer.Run();
    if (rank.world.rank() == 0 || UnderMpi()) result = mine;
  });
  return result;
}

}  // namespace ringwise
