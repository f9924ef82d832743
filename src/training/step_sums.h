#pragma once

#include <cstdint>
#include <vector>

#include "ringwise/launch.h"
#include "ringwise/trainer.h"
#include "training/train_task.h"

namespace ringwise {

// What the ranks agree on in one sum, once a step.
struct StepSums {
  TaskSums task;
  int64_t bytes_sent = 0;
  double attention_work = 1;                  // the busiest rank's pairs over the mean
  double seconds = 0;                         // by rank 0's clock
  StopReason signal = StopReason::kFinished;  // that a rank has caught; kFinished: none
};

// From this rank's sums, bytes sent and clock, the signals that it caught looked up here. The same
// on every rank. Collective over the world.
StepSums SumOverRanks(Rank& rank, const TaskSums& mine, int64_t bytes_sent, double seconds);

// Makes each gradient the sum of all ranks'. Collective over the world.
void SumGradients(Rank& rank, std::vector<Parameter>& parameters);

}  // namespace ringwise
