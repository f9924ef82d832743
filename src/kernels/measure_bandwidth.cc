#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "kernels/cache.h"
#include "kernels/read_bandwidth.h"
#include "ringwise/cpu.h"
#include "ringwise/memory.h"

namespace ringwise {
namespace {

constexpr int64_t kUnit = 1024 * sizeof(uint32_t);

// Eight times the last level of caches.
int64_t StreamBytes() {
  constexpr int64_t kLeast = int64_t{256} << 20;
  constexpr int64_t kMost = int64_t{1} << 30;
  return std::clamp<int64_t>(8 * LastCacheBytes(), kLeast, kMost) / kUnit * kUnit;
}

}  // namespace

double MeasureReadBandwidth(ThreadTeam& team, double seconds) {
  using Clock = std::chrono::steady_clock;
  MemoryMeter meter;
  const Buffer buffer(meter, MemoryCategory::kWorkspace, static_cast<size_t>(StreamBytes()));
  const auto part_of = [&](int thread) {
    const Range part = SplitRange(std::ssize(buffer.bytes()), team.size(), thread, kUnit);
    return buffer.bytes().subspan(part.begin, part.size());
  };
  team.Run([&](int thread) { std::memset(part_of(thread).data(), 1, part_of(thread).size()); });
  std::atomic<uint32_t> sink{0};
  const Clock::time_point start = Clock::now();
  double best = 0;
  int pass = 0;
  do {
    const Clock::time_point begin = Clock::now();
    team.Run([&](int thread) {
      const auto part = part_of(thread);
      const auto* words = reinterpret_cast<const uint32_t*>(part.data());
      sink.fetch_or(ReadWords({words, part.size() / sizeof(uint32_t)}), std::memory_order_relaxed);
    });
    const std::chrono::duration<double> elapsed = Clock::now() - begin;
    best = std::max(best, static_cast<double>(buffer.size()) / elapsed.count());
  } while (++pass < 2 || std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return best;
}

}  // namespace ringwise
