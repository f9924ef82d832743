#include "ringwise/trace.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "ringwise/error.h"
#include "ringwise/thread_team.h"

namespace ringwise {
namespace {

void Sleep(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

TEST(TraceSpan, NestsAsScopesDo) {
  Tracer trace(1);
  {
    const TraceSpan outer(&trace, TraceKind::kPhase, "outer", {{"step", 7}});
    const TraceSpan inner(&trace, TraceKind::kCompute, "inner");
  }
  const auto& events = trace.events(0);
  ASSERT_EQ(events.size(), 2u);
  const TraceEvent& inner = events[0];
  const TraceEvent& outer = events[1];
  EXPECT_STREQ(inner.name, "inner");
  EXPECT_EQ(inner.kind, TraceKind::kCompute);
  EXPECT_EQ(inner.args[0].key, nullptr);
  EXPECT_STREQ(outer.name, "outer");
  EXPECT_STREQ(outer.args[0].key, "step");
  EXPECT_EQ(outer.args[0].value, 7);
  EXPECT_LE(outer.begin, inner.begin);
  EXPECT_LE(inner.begin, inner.end);
  EXPECT_LE(inner.end, outer.end);
}

TEST(TraceSpan, OfNoTracerIsNothing) {
  const TraceSpan span(nullptr, TraceKind::kPhase, "nothing", {{"step", 7}});
}

TEST(Tracer, CountsWhatItHasNoRoomFor) {
  Tracer trace(2, 3);
  for (int i = 0; i < 5; ++i) const TraceSpan span(&trace, TraceKind::kPhase, "span");
  trace.Add(trace.send_row(), {});
  EXPECT_EQ(trace.events(0).size(), 3u);
  EXPECT_EQ(trace.dropped(0), 2);
  EXPECT_EQ(trace.events(trace.send_row()).size(), 1u);
  EXPECT_EQ(trace.dropped(trace.send_row()), 0);
  EXPECT_THROW(Tracer(0), UsageError);
}

TEST(Tracer, JoinsThePiecesOfOneSpan) {
  Tracer trace(2);
  const auto at = [begin = Tracer::Clock::now()](int microseconds) {
    return begin + std::chrono::microseconds(microseconds);
  };
  trace.AddMember(1, at(0), at(10));  // while no span is open
  {
    const TraceSpan first(&trace, TraceKind::kPhase, "first", {{"block", 1}});
    trace.AddMember(1, at(12), at(20));
    trace.AddMember(1, at(25), at(40));
    trace.AddMember(1, at(70), at(80));  // after a gap
    const TraceSpan second(&trace, TraceKind::kPhase, "second");
    trace.AddMember(1, at(81), at(90));
  }
  const auto& events = trace.events(1);
  ASSERT_EQ(events.size(), 4u);
  const char* names[] = {"work", "first", "first", "second"};
  const int begins[] = {0, 12, 70, 81};
  const int ends[] = {10, 40, 80, 90};
  for (int i = 0; i < 4; ++i) {
    EXPECT_STREQ(events[i].name, names[i]);
    EXPECT_EQ(events[i].kind, TraceKind::kCompute);
    EXPECT_EQ(events[i].begin, at(begins[i]));
    EXPECT_EQ(events[i].end, at(ends[i]));
  }
  EXPECT_EQ(events[1].args[0].value, 1);
}

TEST(Tracer, JoinsNothingToWhatWasDropped) {
  Tracer trace(2, 0);
  const auto now = Tracer::Clock::now();
  trace.AddMember(1, now, now);
  trace.AddMember(1, now, now);
  EXPECT_TRUE(trace.events(1).empty());
  EXPECT_EQ(trace.dropped(1), 2);
}

TEST(Tracer, ShowsWhatEachMemberOfATeamDidAndWhoWaited) {
  constexpr int kThreads = 3;
  Tracer trace(kThreads);
  ThreadTeam team(kThreads, &trace);
  {
    const TraceSpan span(&trace, TraceKind::kCompute, "layer", {{"index", 4}});
    team.Run([](int thread) {
      if (thread == 2) Sleep(5);
    });
  }
  for (int member = 1; member < kThreads; ++member) {
    ASSERT_EQ(trace.events(member).size(), 1u);
    const TraceEvent& work = trace.events(member)[0];
    EXPECT_STREQ(work.name, "layer");
    EXPECT_EQ(work.args[0].value, 4);
    EXPECT_GE(work.end - work.begin, std::chrono::milliseconds(member == 2 ? 5 : 0));
  }
  ASSERT_EQ(trace.events(0).size(), 2u);
  EXPECT_EQ(trace.events(0)[0].kind, TraceKind::kWait);
  EXPECT_EQ(trace.events(0)[1].kind, TraceKind::kCompute);
}

TEST(Tracer, ATaskThatThrowsLeavesNoSpan) {
  Tracer trace(2);
  ThreadTeam team(2, &trace);
  EXPECT_THROW(team.Run([](int thread) {
    if (thread == 1) throw Error("no");
  }),
               Error);
  EXPECT_TRUE(trace.events(1).empty());
}

}  // namespace
}  // namespace ringwise
