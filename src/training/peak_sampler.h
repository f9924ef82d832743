#pragma once

#include "ringwise/dtype.h"
#include "ringwise/launch.h"

namespace ringwise {

// The machine's peak that MFU refers to: the best of many samples, taken now and then, for on a
// shared machine the first may have met a busy neighbour. Its calls are collective over the world,
// and `trained`, the seconds of training so far, is the same on every rank.
class PeakSampler {
 public:
  PeakSampler(Rank& rank, DType compute) : rank_(rank), compute_(compute) {}

  double flops() const { return flops_; }  // a second, of the best sample so far
  // Takes a sample if it is time for one.
  void Sample(double trained);
  // The last sample, longer the longer training took.
  void SampleLast(double trained);

 private:
  Rank& rank_;
  DType compute_;
  double flops_ = 0;
  double sampled_at_ = 0;
  double sampled_for_ = 0;  // seconds in all
};

}  // namespace ringwise
