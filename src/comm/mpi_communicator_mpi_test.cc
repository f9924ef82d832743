#include "comm/mpi_communicator.h"

#include "comm/communicator_conformance.h"
#include "ringwise/launch.h"

namespace ringwise {
namespace {

struct MpiRanks {
  static void Run(const std::function<void(Communicator&)>& body) {
    MpiOptions options;
    options.timeout_seconds = 100;
    const auto world = MakeMpiWorld(options);
    body(*world);
  }
};

// The same with messages cut into many parts.
struct MpiRanksSmallParts {
  static void Run(const std::function<void(Communicator&)>& body) {
    MpiOptions options;
    options.timeout_seconds = 100;
    options.part_bytes = 1000;
    const auto world = MakeMpiWorld(options);
    body(*world);
  }
};

using Kinds = testing::Types<MpiRanks, MpiRanksSmallParts>;
INSTANTIATE_TYPED_TEST_SUITE_P(Mpi, CommunicatorTest, Kinds);

TEST(MpiCommunicator, ASilentPeerIsAnErrorAfterTheTimeOut) {
  const auto patient = MakeMpiWorld({});
  const int last = patient->size() - 1;
  MpiOptions options;
  options.timeout_seconds = 0.3;
  {
    const auto world = MakeMpiWorld(options);
    if (world->rank() != last) {
      std::vector<std::byte> bytes(10);
      auto transfer = world->Receive(bytes, last, 0);
      try {
        world->Wait(transfer);
        ADD_FAILURE();
      } catch (const PeerError& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("waited 0.3 s for rank"));
      }
    }
    patient->Barrier();
  }
  patient->Barrier();
}

// Of memory that is not there MPI says so at once.
TEST(MpiCommunicator, ATransferThatDoesNotStartIsAnError) {
  const auto world = MakeMpiWorld({});
  const int other = (world->rank() + 1) % world->size();
  if (world->size() > 1) {
    std::byte* const nowhere = nullptr;
    EXPECT_THROW(world->Send(std::span(nowhere, 10), other, 0), PeerError);
    EXPECT_THROW(world->Receive(std::span(nowhere, 10), other, 0), PeerError);
    world->Progress();
  }
  world->Barrier();
}

TEST(MpiLaunch, MakesTheMeshOfTheJob) {
  EXPECT_TRUE(UnderMpi());
  for (const int threads : {0, 3}) {
    MeshOptions options;
    options.threads = threads;
    int calls = 0;
    Launch(options, [&](Rank& rank) {
      ++calls;
      EXPECT_EQ(rank.ring.size(), rank.world.size());
      EXPECT_EQ(rank.ring.rank(), rank.world.rank());
      EXPECT_EQ(rank.data_parallel.size(), 1);
      if (threads > 0) {
        EXPECT_EQ(rank.context.team.size(), threads);
      }
      EXPECT_GE(rank.context.team.size(), 1);
      if (threads == 0 && rank.world.size() >= AvailableCores()) {
        EXPECT_EQ(rank.context.team.size(), 1);
      }
    });
    EXPECT_EQ(calls, 1);
  }
  MeshOptions options;
  options.ring = 1;
  Launch(options, [&](Rank& rank) {
    EXPECT_EQ(rank.ring.size(), 1);
    EXPECT_EQ(rank.data_parallel.size(), rank.world.size());
    EXPECT_EQ(rank.data_parallel.rank(), rank.world.rank());
  });
}

}  // namespace
}  // namespace ringwise

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
