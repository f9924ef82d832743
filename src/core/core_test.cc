#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>
#include <set>

#include "core/out_of_memory.h"
#include "ringwise/context.h"
#include "ringwise/error.h"
#include "ringwise/random.h"
#include "ringwise/tensor.h"

namespace ringwise {
namespace {

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(bf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(bf16(1.00390625f).bits, 0x3f80);  // halfway, down to even
  EXPECT_EQ(bf16(1.01171875f).bits, 0x3f82);  // halfway, up to even
  EXPECT_EQ(bf16(1.00390637f).bits, 0x3f81);  // just above halfway
  EXPECT_EQ(bf16(3.4e38f).bits, 0x7f80);      // overflow
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::nanf("")))));
  EXPECT_EQ(static_cast<float>(bf16(-std::numeric_limits<float>::infinity())),
            -std::numeric_limits<float>::infinity());
}

TEST(MemoryMeter, CountsByCategoryAndPeak) {
  MemoryMeter meter;
  {
    Buffer a(meter, MemoryCategory::kActivations, 1000);
    Buffer b(meter, MemoryCategory::kParameters, 1 << 20);
    a.as<char>()[999] = 1;
    b.as<char>()[(1 << 20) - 1] = 1;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 64, 0u);
    EXPECT_EQ(meter.current().total, 1000 + (1 << 20));
    EXPECT_EQ(meter.current().working, 1000);
    Buffer moved = std::move(a);
    EXPECT_EQ(meter.current()[MemoryCategory::kActivations], 1000);
  }
  EXPECT_EQ(meter.current().total, 0);
  EXPECT_EQ(meter.peak()[MemoryCategory::kParameters], 1 << 20);
  EXPECT_EQ(meter.peak().largest_allocation, 1 << 20);
  meter.ResetPeak();
  EXPECT_EQ(meter.peak().total, 0);
}

TEST(OutOfMemory, SaysWhatToDo) {
  MemoryMeter meter;
  try {
    ExplainOutOfMemory("use less",
                       [&] { Buffer(meter, MemoryCategory::kWorkspace, size_t{1} << 62); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "out of memory: use less");
  }
  EXPECT_THROW(ExplainOutOfMemory("", [] { throw FileError("other"); }), FileError);
}

TEST(Tensor, SlicesAndStrides) {
  MemoryMeter meter;
  Tensor tensor(meter, MemoryCategory::kWorkspace, DType::kF32, {2, 3, 4});
  std::iota(tensor.data<float>(), tensor.data<float>() + 24, 0.0f);
  const TensorView slice = tensor.view().Slice(2, 1, 2);
  EXPECT_EQ(slice.shape, (Shape{2, 3, 2}));
  EXPECT_FALSE(slice.contiguous());
  EXPECT_EQ(*slice.at<float>(1, 2, 1), 22.0f);
  const ConstTensorView constant = slice;
  EXPECT_EQ(*constant.at<float>(0, 1), 5.0f);
  EXPECT_THROW(tensor.view().Slice(1, 2, 2), ShapeError);
  EXPECT_THROW((Shape{1, -1}), ShapeError);
}

TEST(SplitRange, CoversEveryIndexOnce) {
  for (const int64_t count : {0, 1, 7, 64, 100}) {
    for (const int parts : {1, 2, 3, 8}) {
      int64_t next = 0;
      for (int part = 0; part < parts; ++part) {
        const Range range = SplitRange(count, parts, part, 8);
        EXPECT_EQ(range.begin, next);
        next = range.end;
      }
      EXPECT_EQ(next, count);
    }
  }
}

TEST(ThreadTeam, RunsEveryMemberAndIndex) {
  for (const int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::vector<int> seen(threads, 0);
      team.Run([&](int thread) { ++seen[thread]; });
      EXPECT_EQ(seen, std::vector<int>(threads, 1));
      std::vector<int> hits(37, 0);
      team.ForEach(37, [&](int64_t index, int) { ++hits[index]; });
      EXPECT_EQ(hits, std::vector<int>(37, 1));
    }
  }
}

TEST(ThreadTeam, BarrierSeparatesPhases) {
  ThreadTeam team(3);
  std::vector<int> first(3, 0);
  std::vector<int> sums(3, 0);
  team.Run([&](int thread) {
    for (int round = 1; round <= 20; ++round) {
      first[thread] = round;
      team.Barrier();
      sums[thread] = std::accumulate(first.begin(), first.end(), 0);
      team.Barrier();
      EXPECT_EQ(sums[thread], 3 * round);
    }
  });
}

TEST(ThreadTeam, AnErrorReleasesTheOthersAndIsRethrown) {
  ThreadTeam team(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THROW(
        {
          try {
            team.Run([&](int thread) {
              if (thread == 1) throw UsageError("first");
              team.Barrier();
              team.Barrier();
            });
          } catch (const Error& error) {
            EXPECT_STREQ(error.what(), "first");
            throw;
          }
        },
        UsageError);
    team.Run([&](int) { team.Barrier(); });
  }
}

// A sanitizer's shadow memory does not fit below the limit that this test sets.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Starts a team of which the system gives a part, and exits: 0 if the error says so.
[[noreturn]] void StartTooManyThreads() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const auto bytes = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (64 << 20));
  const rlimit limit{bytes, bytes};
  if (setrlimit(RLIMIT_AS, &limit) != 0) std::_Exit(2);
  try {
    const ThreadTeam team(1000);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(0);
  }
  std::_Exit(1);
}

TEST(ThreadTeam, ARehearsalPreparesAlone) {
  ThreadTeam team = ThreadTeam::Rehearsal(3);
  EXPECT_EQ(team.size(), 3);
  EXPECT_TRUE(team.rehearses());
  EXPECT_FALSE(ThreadTeam(3).rehearses());
  team.Run([](int) { ADD_FAILURE(); });
  team.ForEach(1, [](int64_t, int) { ADD_FAILURE(); });
  std::vector<int> members;
  team.Prepare([&](int thread) {
    team.Barrier();
    members.push_back(thread);
  });
  EXPECT_EQ(members, (std::vector<int>{0, 1, 2}));
  std::vector<int64_t> indices;
  team.PrepareEach(2, [&](int64_t index, int) { indices.push_back(index); });
  EXPECT_EQ(indices, (std::vector<int64_t>{0, 1}));
  EXPECT_THROW(ThreadTeam::Rehearsal(0), UsageError);
  std::atomic<int> prepared{0};
  ThreadTeam two(2);
  two.Prepare([&](int) { ++prepared; });
  two.PrepareEach(5, [&](int64_t, int) { ++prepared; });
  EXPECT_EQ(prepared, 7);
}

TEST(ThreadTeam, SaysThatThreadsDoNotStart) {
  EXPECT_EXIT(StartTooManyThreads(), testing::ExitedWithCode(0), "cannot start 1000 threads");
}
#endif

TEST(Random, DerivedSeedsDependOnSeedAndStream) {
  EXPECT_EQ(DeriveSeed(3, 4), DeriveSeed(3, 4));
  EXPECT_NE(DeriveSeed(3, 4), DeriveSeed(3, 5));
  EXPECT_NE(DeriveSeed(3, 4), DeriveSeed(4, 4));
}

TEST(Random, MatchesThePublishedVectors) {
  // Known-answer test of the paper's reference implementation.
  EXPECT_EQ(Philox(0, {0, 0, 0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

TEST(Random, ResumesFromItsPosition) {
  Random random(7, 3);
  for (int i = 0; i < 11; ++i) random.Word();
  Random resumed(7, 3, random.position());
  EXPECT_EQ(random.Uniform(), resumed.Uniform());
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < 20000; ++i) {
    const double x = random.Normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / 20000, 0, 0.03);
  EXPECT_NEAR(squares / 20000, 1, 0.05);
  std::set<uint64_t> values;
  for (int i = 0; i < 200; ++i) values.insert(random.Below(5));
  EXPECT_EQ(values, (std::set<uint64_t>{0, 1, 2, 3, 4}));
}

}  // namespace
}  // namespace ringwise
