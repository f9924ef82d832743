#include "ringwise/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <tuple>
#include <vector>

#include "comm/launch_parts.h"

namespace ringwise {
namespace {

TEST(Launch, ArrangesTheMesh) {
  std::mutex mutex;
  std::vector<std::tuple<int, int, int, int>> seen;
  MeshOptions options;
  options.ring = 3;
  options.data_parallel = 2;
  options.threads = 2;
  Launch(options, [&](Rank& rank) {
    EXPECT_EQ(rank.world.size(), 6);
    EXPECT_EQ(rank.ring.size(), 3);
    EXPECT_EQ(rank.data_parallel.size(), 2);
    EXPECT_EQ(rank.context.team.size(), 2);
    Buffer buffer(rank.context.meter, MemoryCategory::kWorkspace, 10);
    EXPECT_EQ(rank.context.meter.current().total, 10);
    const std::lock_guard lock(mutex);
    seen.emplace_back(rank.world.rank(), rank.data_parallel.rank(), rank.ring.rank(), 0);
  });
  std::sort(seen.begin(), seen.end());
  ASSERT_EQ(seen.size(), 6u);
  for (int world = 0; world < 6; ++world) {
    EXPECT_EQ(seen[world], std::make_tuple(world, world / 3, world % 3, 0));
  }
}

TEST(Launch, RethrowsTheFirstError) {
  MeshOptions options;
  options.ring = 4;
  options.threads = 1;
  std::atomic<int> peers{0};
  try {
    Launch(options, [&](Rank& rank) {
      if (rank.ring.rank() == 2) throw FileError("disk full");
      try {
        rank.world.Barrier();
      } catch (const PeerError&) {
        ++peers;
        throw;
      }
    });
    ADD_FAILURE();
  } catch (const FileError& error) {
    EXPECT_STREQ(error.what(), "disk full");
  }
  EXPECT_EQ(peers, 3);
}

TEST(Launch, DefaultsToOneRankWithAllCores) {
  int threads = 0;
  Launch({}, [&](Rank& rank) {
    EXPECT_EQ(rank.world.size(), 1);
    threads = rank.context.team.size();
  });
  EXPECT_EQ(threads, AvailableCores());
}

Mesh Resolve(int ring, int data_parallel, int ranks) {
  MeshOptions options;
  options.ring = ring;
  options.data_parallel = data_parallel;
  return ResolveMesh(options, ranks);
}

TEST(Mesh, FillsInWhatIsLeftOut) {
  const auto mesh = [](int ring, int data_parallel, int ranks) {
    const Mesh m = Resolve(ring, data_parallel, ranks);
    return std::make_pair(m.ring, m.data_parallel);
  };
  EXPECT_EQ(mesh(0, 0, 6), std::make_pair(6, 1));
  EXPECT_EQ(mesh(3, 0, 6), std::make_pair(3, 2));
  EXPECT_EQ(mesh(0, 3, 6), std::make_pair(2, 3));
  EXPECT_EQ(mesh(2, 3, 6), std::make_pair(2, 3));
  EXPECT_EQ(mesh(0, 0, 0), std::make_pair(1, 1));
  EXPECT_EQ(mesh(4, 2, 0), std::make_pair(4, 2));
}

TEST(Mesh, SaysWhatDoesNotFit) {
  for (const auto& [ring, data_parallel] : {std::pair(4, 0), {0, 4}, {2, 2}, {7, 1}, {7, 0}}) {
    try {
      Resolve(ring, data_parallel, 6);
      ADD_FAILURE();
    } catch (const UsageError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("6 ranks"));
    }
  }
  EXPECT_THROW(Resolve(-1, 0, 0), UsageError);
  for (const int ranks : {0, 6}) {  // 2^32 and 2^17 ranks: more than an int, more than there may be
    EXPECT_THROW(Resolve(65536, 65536, ranks), UsageError);
    EXPECT_THROW(Resolve(65536, 2, ranks), UsageError);
  }
  MeshOptions options;
  options.timeout_seconds = 0;
  EXPECT_THROW(ResolveMesh(options, 0), UsageError);
}

}  // namespace
}  // namespace ringwise
