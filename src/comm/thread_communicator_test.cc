#include "comm/thread_communicator.h"

#include <chrono>
#include <cstdlib>
#include <new>

#include "comm/communicator_conformance.h"

namespace {

// The allocation of this thread that fails, counted from now; 0: none.
thread_local int failing_allocation = 0;

}  // namespace

// Not inline: GCC would see malloc paired with delete, and warn.
[[gnu::noinline]] void* operator new(size_t size) {
  if (failing_allocation > 0 && --failing_allocation == 0) throw std::bad_alloc();
  void* const memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
// The address sanitizer's own would not pair with the delete below.
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size > 0 ? size : 1);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace ringwise {
namespace {

std::exception_ptr RunThreads(int size, double timeout_seconds,
                              const std::function<void(Communicator&)>& body) {
  const auto failure = std::make_shared<SharedFailure>();
  const auto ranks = MakeThreadCommunicators(size, timeout_seconds, failure);
  std::vector<std::thread> threads;
  for (const auto& rank : ranks) {
    threads.emplace_back([&failure, &body, &comm = *rank] {
      try {
        body(comm);
      } catch (...) {
        failure->Set(comm.rank(), std::current_exception());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failure->first();
}

template <int kSize>
struct ThreadRanks {
  static void Run(const std::function<void(Communicator&)>& body) {
    const std::exception_ptr error = RunThreads(kSize, 60, body);
    if (error) std::rethrow_exception(error);
  }
};

using Sizes = testing::Types<ThreadRanks<1>, ThreadRanks<2>, ThreadRanks<3>, ThreadRanks<4>,
                             ThreadRanks<5>, ThreadRanks<8>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Threads, CommunicatorTest, Sizes);

// What a rank is doing when another one throws.
using Blocked = void (*)(Communicator&);
const std::pair<const char*, Blocked> kBlocked[] = {
    {"receive",
     [](Communicator& comm) {
       std::vector<std::byte> bytes(1000);
       auto transfer = comm.Receive(bytes, 1, 0);
       comm.Wait(transfer);
     }},
    {"send",
     [](Communicator& comm) {
       const std::vector<std::byte> bytes(1000);
       auto transfer = comm.Send(bytes, 1, 0);
       comm.Wait(transfer);
     }},
    {"barrier", [](Communicator& comm) { comm.Barrier(); }},
    {"sum",
     [](Communicator& comm) {
       std::vector<float> values(1000);
       comm.AllReduceSum(std::span<float>(values));
     }},
    {"gather", [](Communicator& comm) { comm.AllGather({}); }},
    {"broadcast",
     [](Communicator& comm) {
       std::vector<std::byte> bytes(10);
       comm.Broadcast(bytes, 1);
     }},
    {"split", [](Communicator& comm) { comm.Split(0); }},
    {"barrier of a part",
     [](Communicator& comm) {
       // Rank 0's part has no failed rank in it, and waits for one that is blocked elsewhere.
       std::vector<std::byte> bytes(10);
       auto transfer = comm.Receive(bytes, 1, 0);
       comm.Wait(transfer);
     }},
};

TEST(ThreadCommunicator, ARankThatThrowsReleasesTheOthers) {
  for (const auto& [name, blocked] : kBlocked) {
    SCOPED_TRACE(name);
    for (int repeat = 0; repeat < 5; ++repeat) {
      std::atomic<int> released{0};
      const std::exception_ptr first = RunThreads(3, 60, [&](Communicator& comm) {
        auto part = comm.Split(comm.rank() == 1 ? 1 : 0);
        if (comm.rank() == 1) {
          if (repeat > 0) std::this_thread::sleep_for(std::chrono::milliseconds(repeat));
          throw FileError("disk full");
        }
        try {
          if (comm.rank() == 2) {
            part->Barrier();
            part->Barrier();
          }
          blocked(comm);
        } catch (const PeerError& error) {
          EXPECT_STREQ(error.what(), "rank 1 failed: disk full");
          ++released;
        }
        // So do all calls from now on.
        EXPECT_THROW(comm.Barrier(), PeerError);
        EXPECT_THROW(comm.Send({}, 0, 0), PeerError);
        EXPECT_THROW(part->Receive({}, 0, 0), PeerError);
      });
      EXPECT_EQ(released, 2);
      ASSERT_TRUE(first);
      EXPECT_THROW(std::rethrow_exception(first), FileError);
    }
  }
}

TEST(ThreadCommunicator, ASilentPeerIsAnErrorAfterTheTimeOut) {
  for (const bool in_barrier : {false, true}) {
    std::atomic<bool> ended{false};
    const std::exception_ptr first = RunThreads(3, 0.2, [&](Communicator& comm) {
      if (comm.rank() == 2) {
        while (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return;
      }
      try {
        std::vector<std::byte> bytes(10);
        auto transfer = comm.Receive(bytes, 2, 0);
        if (in_barrier) comm.Barrier();
        comm.Wait(transfer);
        ADD_FAILURE();
      } catch (...) {
        ended = true;
        throw;
      }
    });
    ASSERT_TRUE(first);
    try {
      std::rethrow_exception(first);
    } catch (const PeerError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("waited 0.2 s"));
      EXPECT_THAT(error.what(), testing::HasSubstr(in_barrier ? "the other ranks" : "rank 2"));
    }
  }
}

// Whichever allocation of a collective fails on one rank, the others end with its error, and nobody
// reads memory that it has freed: the sanitizers watch.
TEST(ThreadCommunicator, ARankOutOfMemoryReleasesTheOthers) {
  using Collective = void (*)(Communicator&, std::span<float>);
  const std::pair<const char*, Collective> collectives[] = {
      {"gather",
       [](Communicator& comm, std::span<float> values) { comm.AllGather(std::as_bytes(values)); }},
      {"sum", [](Communicator& comm, std::span<float> values) { comm.AllReduceSum(values); }},
      {"broadcast",
       [](Communicator& comm, std::span<float> values) {
         comm.Broadcast(std::as_writable_bytes(values), 1);
       }},
      {"split", [](Communicator& comm, std::span<float>) { comm.Split(0); }},
  };
  for (const auto& [name, collective] : collectives) {
    SCOPED_TRACE(name);
    for (int allocation = 1;; ++allocation) {
      ASSERT_LT(allocation, 100);
      std::atomic<bool> failed{false};
      std::atomic<int> released{0};
      const std::exception_ptr first = RunThreads(4, 60, [&](Communicator& comm) {
        std::vector<float> values(100000);
        if (comm.rank() == 1) failing_allocation = allocation;
        try {
          collective(comm, values);
        } catch (const std::bad_alloc&) {
          failed = true;
          throw;
        } catch (const PeerError&) {
          ++released;
        }
        failing_allocation = 0;
      });
      if (!failed) break;  // it makes fewer
      EXPECT_EQ(released, 3) << "allocation " << allocation;
      ASSERT_TRUE(first);
      EXPECT_THROW(std::rethrow_exception(first), std::bad_alloc);
    }
  }
}

// Memory of a rank that unwinds is not touched any more: the sanitizers watch.
// The owner fails while another rank reads: the reader's share keeps the bytes.
TEST(ThreadCommunicator, SharedBytesOutliveAnOwnerThatFails) {
  std::atomic<bool> gone = false;
  const std::exception_ptr error = RunThreads(2, 60, [&](Communicator& comm) {
    if (comm.rank() == 0) {
      const auto owner = std::make_shared<std::vector<std::byte>>(Pattern(70000, 3));
      auto send = comm.SendShared({*owner, owner}, 1, 0);
      comm.Wait(send);
      const std::shared_ptr<void> last(nullptr, [&](void*) { gone = true; });
      throw Error("out of luck");
    }
    SharedBytes shared;
    auto receive = comm.ReceiveShared(shared, 70000, 0, 0);
    comm.Wait(receive);
    while (!gone) std::this_thread::yield();
    EXPECT_TRUE(std::ranges::equal(shared.bytes, Pattern(70000, 3)));
    comm.Barrier();
  });
  EXPECT_THROW(std::rethrow_exception(error), Error);
}

TEST(ThreadCommunicator, SharedBytesOfAnotherSizeAreAnError) {
  RunThreads(2, 60, [&](Communicator& comm) {
    const auto owner = std::make_shared<std::vector<std::byte>>(100);
    SharedBytes shared;
    auto receive = comm.ReceiveShared(shared, 90, 1 - comm.rank(), 0);
    auto send = comm.SendShared({*owner, owner}, 1 - comm.rank(), 0);
    comm.Wait(send);
    EXPECT_THROW(comm.Wait(receive), Error);
    EXPECT_EQ(shared.keeper, nullptr);
  });
}

TEST(ThreadCommunicator, UnwindingTakesItsTransfersBack) {
  RunThreads(2, 60, [](Communicator& comm) {
    if (comm.rank() == 0) {
      const std::vector<std::byte> bytes(100000);
      std::vector<std::byte> never(100);
      auto send = comm.Send(bytes, 1, 0);
      auto receive = comm.Receive(never, 1, 1);
      throw Error("first");
    }
    std::vector<std::byte> bytes(100000);
    auto receive = comm.Receive(bytes, 0, 0);
    comm.Wait(receive);
    auto send = comm.Send(bytes, 0, 1);
    comm.Wait(send);
  });
}

}  // namespace
}  // namespace ringwise
