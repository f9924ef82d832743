#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "kernels/peak.h"
#include "ringwise/cpu.h"

namespace ringwise {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

FlopRate Measure(ThreadTeam& team, const PeakKernel& kernel, double seconds) {
  std::atomic<float> sink{0};
  struct Span {
    Clock::time_point begin, end;
  };
  std::vector<Span> spans(team.size());
  const auto sample = [&](int64_t rounds) {
    team.Run([&](int thread) {
      team.Barrier();  // a member that is still waking must not count as working
      const Clock::time_point begin = Clock::now();
      sink.store(kernel.run(rounds), std::memory_order_relaxed);
      spans[thread] = {begin, Clock::now()};
    });
    const auto by_begin = [](const Span& a, const Span& b) { return a.begin < b.begin; };
    const auto by_end = [](const Span& a, const Span& b) { return a.end < b.end; };
    return Seconds(std::ranges::min_element(spans, by_begin)->begin,
                   std::ranges::max_element(spans, by_end)->end);
  };

  constexpr double kSampleSeconds = 2e-3;  // shorter than a scheduler's slice, longer than wake-up
  const Clock::time_point start = Clock::now();
  int64_t rounds = 1 << 12;
  for (double elapsed = sample(rounds); elapsed < kSampleSeconds; elapsed = sample(rounds)) {
    rounds *= 2;
  }
  const double flops = static_cast<double>(kernel.flops_per_round) * static_cast<double>(rounds);
  FlopRate rate;
  std::vector<double> worked(spans.size());  // seconds of each thread
  int samples = 0;
  do {
    rate.best = std::max(rate.best, flops * team.size() / sample(rounds));
    for (size_t i = 0; i < spans.size(); ++i) worked[i] += Seconds(spans[i].begin, spans[i].end);
    ++samples;
  } while (Seconds(start, Clock::now()) < seconds);
  for (const double thread : worked) rate.sustained += samples * flops / thread;
  // A sample is shorter than a scheduler's slice: threads that share a core take turns in it.
  rate.sustained *= std::min(1.0, static_cast<double>(AvailableCores()) / team.size());
  return rate;
}

}  // namespace

FlopRate MeasurePeakFlops(ThreadTeam& team, DType dtype, double seconds) {
  const std::vector<PeakKernel> kernels = PeakKernelsFor(dtype);
  FlopRate fastest;
  for (const PeakKernel& kernel : kernels) {
    const FlopRate rate = Measure(team, kernel, seconds / static_cast<double>(kernels.size()));
    if (rate.best > fastest.best) fastest = rate;
  }
  return fastest;
}

FlopRate MeasureTilePeakFlops(ThreadTeam& team, double seconds) {
  const PeakKernel kernel = TilePeakKernel();
  return kernel.run == nullptr ? FlopRate{} : Measure(team, kernel, seconds);
}

}  // namespace ringwise
