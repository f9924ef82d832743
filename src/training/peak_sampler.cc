#include "training/peak_sampler.h"

#include <algorithm>

#include "training/mesh_peak.h"

namespace ringwise {
namespace {

constexpr double kBetweenSamples = 10;
constexpr double kSampleSeconds = 0.05;
// Until so much was sampled, a twentieth of the time goes into it, so that short runs have many.
constexpr double kEarlySeconds = 1;
constexpr double kEarlyShare = 0.05;

}  // namespace

void PeakSampler::Sample(double trained) {
  const double wait = sampled_for_ < kEarlySeconds ? kSampleSeconds / kEarlyShare : kBetweenSamples;
  if (flops_ > 0 && trained < sampled_at_ + wait) return;
  const double seconds = flops_ > 0 ? kSampleSeconds : 2 * kSampleSeconds;
  flops_ = std::max(flops_, MeasureMeshPeak(rank_, compute_, seconds).best);
  sampled_at_ = trained;
  sampled_for_ += seconds;
}

void PeakSampler::SampleLast(double trained) {
  const double seconds = std::clamp(kEarlyShare * trained, 2 * kSampleSeconds, kEarlySeconds);
  flops_ = std::max(flops_, MeasureMeshPeak(rank_, compute_, seconds).best);
}

}  // namespace ringwise
