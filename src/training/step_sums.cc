#include "training/step_sums.h"

#include <cmath>
#include <csignal>
#include <cstddef>
#include <numeric>
#include <span>

#include "ring/attention_work.h"
#include "training/signals.h"

namespace ringwise {

StepSums SumOverRanks(Rank& rank, const TaskSums& mine, int64_t bytes_sent, double seconds) {
  const auto caught = [](int signal) { return SignalCatcher::Caught(signal) ? 1.0 : 0.0; };
  std::vector<double> values = {mine.nats,
                                static_cast<double>(mine.targets),
                                static_cast<double>(mine.tokens),
                                static_cast<double>(mine.bytes),
                                static_cast<double>(mine.correct),
                                static_cast<double>(bytes_sent),
                                rank.world.rank() == 0 ? seconds : 0.0,
                                caught(SIGTERM),
                                caught(SIGINT),
                                caught(SIGUSR1)};
  const size_t shared = values.size();  // then a place for each rank's pairs
  values.resize(shared + static_cast<size_t>(rank.world.size()));
  values[shared + static_cast<size_t>(rank.world.rank())] = mine.pairs;
  rank.world.AllReduceSum(std::span<double>(values));
  const auto by_rank = std::span<const double>(values).subspan(shared);
  StepSums sums;
  sums.task = {.nats = values[0],
               .targets = std::llround(values[1]),
               .tokens = std::llround(values[2]),
               .bytes = std::llround(values[3]),
               .correct = std::llround(values[4]),
               .pairs = std::accumulate(by_rank.begin(), by_rank.end(), 0.0)};
  sums.bytes_sent = std::llround(values[5]);
  sums.attention_work = LargestOverMean(by_rank);
  sums.seconds = values[6];
  if (values[9] > 0) sums.signal = StopReason::kUser1;
  if (values[8] > 0) sums.signal = StopReason::kInterrupt;
  if (values[7] > 0) sums.signal = StopReason::kTerminate;
  return sums;
}

void SumGradients(Rank& rank, std::vector<Parameter>& parameters) {
  if (rank.world.size() == 1) return;
  for (Parameter& parameter : parameters) {
    rank.world.AllReduceSum(std::span<float>(parameter.gradient.data<float>(),
                                             static_cast<size_t>(parameter.gradient.elements())));
  }
}

}  // namespace ringwise
