#include "comm/clock_alignment.h"

#include <cmath>
#include <span>

namespace ringwise {
namespace {

using std::chrono::nanoseconds;

constexpr int kRounds = 32;
constexpr int kTag = 0;

template <class T>
std::span<std::byte> BytesOf(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

void SendNow(Communicator& world, int64_t value, int to) {
  auto sent = world.Send(BytesOf(value), to, kTag);
  world.Wait(sent);
}

int64_t ReceiveNow(Communicator& world, int from) {
  int64_t value = 0;
  auto received = world.Receive(BytesOf(value), from, kTag);
  world.Wait(received);
  return value;
}

}  // namespace

nanoseconds SteadyNow() {
  return std::chrono::duration_cast<nanoseconds>(
      std::chrono::steady_clock::now().time_since_epoch());
}

ClockOffset MeasureClockOffset(Communicator& world, const std::function<nanoseconds()>& now) {
  world.Barrier();
  ClockOffset result;
  result.mine = now();
  if (world.rank() == 0) {
    for (int other = 1; other < world.size(); ++other) {
      for (int round = 0; round < kRounds; ++round) {
        ReceiveNow(world, other);
        SendNow(world, now().count(), other);
      }
    }
    return result;
  }
  nanoseconds shortest = nanoseconds::max();
  for (int round = 0; round < kRounds; ++round) {
    const nanoseconds begin = now();
    SendNow(world, 0, 0);
    const nanoseconds there(ReceiveNow(world, 0));
    const nanoseconds way = now() - begin;
    if (way >= shortest) continue;
    shortest = way;
    result = {begin + way / 2, there - (begin + way / 2), way / 2 + nanoseconds(1)};
  }
  if (std::chrono::abs(result.offset) <= result.uncertainty) result.offset = nanoseconds(0);
  return result;
}

nanoseconds OnClockOfRank0(nanoseconds mine, const ClockOffset& first, const ClockOffset& last) {
  const nanoseconds between = last.mine - first.mine;
  if (between.count() <= 0) return mine + first.offset;
  const double share =
      static_cast<double>((mine - first.mine).count()) / static_cast<double>(between.count());
  const double drift = static_cast<double>((last.offset - first.offset).count());
  return mine + first.offset + nanoseconds(std::llround(drift * share));
}

}  // namespace ringwise
