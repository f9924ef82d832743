#include <fstream>
#include <iterator>

#include "comm/clock_alignment.h"
#include "comm/communicator_conformance.h"
#include "comm/trace_file.h"
#include "comm/traced_communicator.h"
#include "core/temporary_folder.h"
#include "ringwise/launch.h"

namespace ringwise {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::nanoseconds;

// A traced communicator does all that the one inside does.
template <int kSize>
struct TracedRanks {
  static void Run(const std::function<void(Communicator&)>& body) {
    const TemporaryFolder folder;
    MeshOptions options;
    options.ring = kSize;
    options.threads = 1;
    options.trace = folder.path() + "/trace.json";
    Launch(options, [&](Rank& rank) { body(rank.world); });
  }
};

using Sizes = testing::Types<TracedRanks<1>, TracedRanks<3>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Traced, CommunicatorTest, Sizes);

void OnThreeRanks(const std::function<void(Communicator&)>& body) {
  MeshOptions options;
  options.ring = 3;
  options.threads = 1;
  Launch(options, [&](Rank& rank) { body(rank.world); });
}

TEST(TracedCommunicator, RecordsTransfersAndWaits) {
  OnThreeRanks([](Communicator& world) {
    Tracer trace(1);
    const auto traced = MakeTracedCommunicator(world, trace);
    const auto ring = traced->Split(0);
    const int next = (ring->rank() + 1) % 3;
    const int previous = (ring->rank() + 2) % 3;
    const std::vector<std::byte> mine(1000);
    std::vector<std::byte> theirs(1000);
    const auto begin = Tracer::Clock::now();
    auto receive = ring->Receive(theirs, previous, 5);
    auto send = ring->Send(mine, next, 5);
    ring->Wait(receive);
    ring->Wait(send);
    ring->Wait(send);  // null: no span
    const auto end = Tracer::Clock::now();

    const auto check = [&](int row, TraceKind kind, int peer) {
      ASSERT_EQ(trace.events(row).size(), 1u);
      const TraceEvent& event = trace.events(row)[0];
      EXPECT_EQ(event.kind, kind);
      EXPECT_EQ(event.args[0].value, peer);
      EXPECT_EQ(event.args[1].value, 1000);
      EXPECT_EQ(event.args[2].value, 5);
      EXPECT_LE(begin, event.begin);
      EXPECT_LE(event.begin, event.end);
      EXPECT_LE(event.end, end);
    };
    check(trace.send_row(), TraceKind::kSend, next);
    check(trace.receive_row(), TraceKind::kReceive, previous);
    ASSERT_EQ(trace.events(0).size(), 2u);
    for (const TraceEvent& wait : trace.events(0)) EXPECT_EQ(wait.kind, TraceKind::kWait);
  });
}

// Clocks that differ by hours, and run apart by a thousandth.
TEST(ClockAlignment, PutsAllClocksOnRank0s) {
  OnThreeRanks([](Communicator& world) {
    const int64_t rank = world.rank();
    const auto mine_at = [rank](nanoseconds real) {
      return real + real / 1000 * rank - hours(100 * rank);
    };
    const auto now = [&] { return mine_at(SteadyNow()); };
    const ClockOffset first = MeasureClockOffset(world, now);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const nanoseconds real = SteadyNow();
    const nanoseconds mine = mine_at(real);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const ClockOffset last = MeasureClockOffset(world, now);

    if (rank == 0) {
      EXPECT_EQ(first.offset.count(), 0);
      EXPECT_EQ(first.uncertainty.count(), 0);
    } else {
      EXPECT_GT(first.uncertainty.count(), 0);
    }
    // The way's own drift comes on top.
    const nanoseconds bound =
        std::max(first.uncertainty, last.uncertainty) * 101 / 100 + microseconds(1);
    EXPECT_LE(std::chrono::abs(OnClockOfRank0(mine, first, last) - real), bound);
  });
}

TEST(ClockAlignment, LeavesOneClockAsItIs) {
  OnThreeRanks([](Communicator& world) {
    EXPECT_EQ(MeasureClockOffset(world, SteadyNow).offset.count(), 0);
  });
}

TEST(TraceFile, TellsWhatItDropped) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/trace.json";
  OnThreeRanks([&](Communicator& world) {
    const TraceFile file(world, path);
    Tracer trace(1, 2);
    for (int i = 0; i < 2 + world.rank(); ++i) trace.Add(0, {});
    file.Write(trace);
  });
  std::ifstream stream(path);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_THAT(text, testing::HasSubstr("\"dropped\":3}"));
}

TEST(TraceFile, ThatCannotBeWrittenIsAnErrorBeforeAnyBodyRuns) {
  MeshOptions options;
  options.ring = 3;
  options.threads = 1;
  options.trace = "/nowhere/trace.json";
  try {
    Launch(options, [](Rank&) { ADD_FAILURE(); });
    ADD_FAILURE();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("/nowhere/trace.json: cannot write"));
  }
}

}  // namespace
}  // namespace ringwise
