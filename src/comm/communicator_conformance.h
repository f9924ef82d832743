#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ringwise/communicator.h"
#include "ringwise/random.h"

// One suite for every Communicator. `Ranks` is a type with
//   static void Run(const std::function<void(Communicator&)>& body);
// which runs body on every rank and returns when all are done.
namespace ringwise {

template <class Ranks>
class CommunicatorTest : public testing::Test {};

TYPED_TEST_SUITE_P(CommunicatorTest);

inline std::vector<std::byte> Pattern(size_t size, int seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + seed * 31 + i / 251);
  return bytes;
}

template <class T>
std::span<std::byte> Bytes(std::vector<T>& values) {
  return std::as_writable_bytes(std::span(values));
}

TYPED_TEST_P(CommunicatorTest, RingExchange) {
  TypeParam::Run([](Communicator& comm) {
    const int next = (comm.rank() + 1) % comm.size();
    const int previous = (comm.rank() + comm.size() - 1) % comm.size();
    int64_t sent = 0;
    for (const size_t size : {0, 1, 1000, 1001, 70000, 3 << 20}) {
      const std::vector<std::byte> mine = Pattern(size, comm.rank());
      std::vector<std::byte> theirs(size);
      auto receive = comm.Receive(theirs, previous, 5);
      auto send = comm.Send(mine, next, 5);
      comm.Progress();
      comm.Wait(send);
      comm.Wait(receive);
      EXPECT_EQ(send, nullptr);
      comm.Wait(send);  // null is legal
      EXPECT_EQ(theirs, Pattern(size, previous));
      if (next != comm.rank()) sent += static_cast<int64_t>(size);
    }
    EXPECT_EQ(comm.bytes_sent(), sent);
  });
}

// Every rank's bytes go once around and come home, read by all; each rank adds to a sum on its way.
TYPED_TEST_P(CommunicatorTest, SharedBytesGoFromRankToRank) {
  TypeParam::Run([](Communicator& comm) {
    const int next = (comm.rank() + 1) % comm.size();
    const int previous = (comm.rank() + comm.size() - 1) % comm.size();
    const size_t size = 70000;
    const auto share = [](std::vector<std::byte> bytes) {
      const auto owner = std::make_shared<std::vector<std::byte>>(std::move(bytes));
      return SharedBytes{*owner, owner};
    };
    const auto pass = [&](const SharedBytes& mine, int tag) {
      SharedBytes theirs;
      if (!comm.shares_memory()) theirs = share(std::vector<std::byte>(mine.bytes.size()));
      auto receive = comm.ReceiveShared(theirs, mine.bytes.size(), previous, tag);
      auto send = comm.SendShared(mine, next, tag);
      comm.Wait(send);
      comm.Wait(receive);
      return theirs;
    };
    const SharedBytes own = share(Pattern(size, comm.rank()));
    const SharedBytes own_sum = share(std::vector<std::byte>(1));
    SharedBytes read = own;
    SharedBytes sum = own_sum;
    for (int hop = 1; hop <= comm.size(); ++hop) {
      sum.bytes[0] = static_cast<std::byte>(static_cast<int>(sum.bytes[0]) + comm.rank() + 1);
      read = pass(read, 7);
      sum = pass(sum, 8);
      const int from = (comm.rank() + comm.size() - hop % comm.size()) % comm.size();
      EXPECT_TRUE(std::ranges::equal(read.bytes, Pattern(size, from)));
    }
    EXPECT_EQ(static_cast<int>(sum.bytes[0]), comm.size() * (comm.size() + 1) / 2);
    if (comm.shares_memory()) {
      EXPECT_EQ(read.bytes.data(), own.bytes.data());
      EXPECT_EQ(sum.bytes.data(), own_sum.bytes.data());
    }
    const int64_t sent = comm.size() * static_cast<int64_t>(size + 1);
    EXPECT_EQ(comm.bytes_sent(), comm.size() == 1 ? 0 : sent);
    comm.Barrier();
  });
}

TYPED_TEST_P(CommunicatorTest, MessagesWithOneTagKeepTheirOrderAndTagsAreApart) {
  TypeParam::Run([](Communicator& comm) {
    // Everyone sends 10 messages with tag 0 and 10 with the highest tag to everyone, itself too;
    // receives are posted in another order, and waited for last to first.
    constexpr int kCount = 10;
    constexpr int kTags[] = {0, (1 << 15) - 1};
    std::vector<std::vector<std::byte>> sends;
    std::vector<std::vector<std::byte>> receives;
    std::vector<Communicator::TransferPtr> transfers;
    std::vector<std::vector<std::byte>> expected;
    const auto size = [](int message) { return static_cast<size_t>(1 + message * 97); };
    for (const int tag : {kTags[0], kTags[1]}) {
      for (int message = 0; message < kCount; ++message) {
        for (int other = 0; other < comm.size(); ++other) {
          sends.push_back(Pattern(size(message), comm.rank() + other * 10 + tag + message));
          transfers.push_back(comm.Send(sends.back(), other, tag));
        }
      }
    }
    for (const int tag : {kTags[1], kTags[0]}) {
      for (int other = comm.size() - 1; other >= 0; --other) {
        for (int message = 0; message < kCount; ++message) {
          expected.push_back(Pattern(size(message), other + comm.rank() * 10 + tag + message));
          receives.emplace_back(size(message));
          transfers.push_back(comm.Receive(receives.back(), other, tag));
        }
      }
    }
    while (!transfers.empty()) {
      comm.Wait(transfers.back());
      transfers.pop_back();
    }
    EXPECT_EQ(receives, expected);
  });
}

TYPED_TEST_P(CommunicatorTest, SendsToItself) {
  TypeParam::Run([](Communicator& comm) {
    const std::vector<std::byte> mine = Pattern(100000, 3);
    std::vector<std::byte> back(mine.size());
    auto send = comm.Send(mine, comm.rank(), 1);
    auto receive = comm.Receive(back, comm.rank(), 1);
    comm.Wait(receive);
    comm.Wait(send);
    EXPECT_EQ(back, mine);
    EXPECT_EQ(comm.bytes_sent(), 0);
  });
}

TYPED_TEST_P(CommunicatorTest, AWrongSizeIsAnError) {
  TypeParam::Run([](Communicator& comm) {
    // Shorter and longer than what was sent; what comes after is not disturbed.
    for (const size_t size : {90, 110}) {
      const std::vector<std::byte> mine = Pattern(100, 1);
      std::vector<std::byte> back(size);
      const int next = (comm.rank() + 1) % comm.size();
      const int previous = (comm.rank() + comm.size() - 1) % comm.size();
      auto receive = comm.Receive(back, previous, 2);
      auto send = comm.Send(mine, next, 2);
      EXPECT_THROW(comm.Wait(receive), ShapeError);
      comm.Wait(send);
      comm.Barrier();
    }
    EXPECT_THROW(comm.Send({}, comm.size(), 0), UsageError);
    EXPECT_THROW(comm.Receive({}, -1, 0), UsageError);
    EXPECT_THROW(comm.Send({}, 0, 1 << 15), UsageError);
    EXPECT_THROW(comm.Send({}, 0, -1), UsageError);
  });
}

TYPED_TEST_P(CommunicatorTest, ProgressFromAnotherThread) {
  TypeParam::Run([](Communicator& comm) {
    std::atomic<bool> stop{false};
    std::thread helper([&] {
      while (!stop) {
        comm.Progress();
        std::this_thread::yield();
      }
    });
    const int next = (comm.rank() + 1) % comm.size();
    const int previous = (comm.rank() + comm.size() - 1) % comm.size();
    for (int repeat = 0; repeat < 20; ++repeat) {
      const std::vector<std::byte> mine = Pattern(200000, comm.rank() + repeat);
      std::vector<std::byte> theirs(mine.size());
      auto receive = comm.Receive(theirs, previous, 5);
      auto send = comm.Send(mine, next, 5);
      comm.Wait(send);
      comm.Wait(receive);
      EXPECT_EQ(theirs, Pattern(mine.size(), previous + repeat));
    }
    stop = true;
    helper.join();
  });
}

// The value of rank r at index i: spread over many exponents, so that any other order of the sum
// shows.
template <class T>
T Term(int rank, size_t index) {
  Random random(static_cast<uint64_t>(rank), index);
  return static_cast<T>(random.Normal()) * static_cast<T>(std::exp2(4.0 * random.Normal()));
}

template <class T>
void CheckSum(Communicator& comm, size_t size) {
  std::vector<T> values(size);
  for (size_t i = 0; i < size; ++i) values[i] = Term<T>(comm.rank(), i);
  comm.AllReduceSum(std::span<T>(values));
  for (size_t i = 0; i < size; ++i) {
    T expected = Term<T>(0, i);
    for (int rank = 1; rank < comm.size(); ++rank) expected += Term<T>(rank, i);
    ASSERT_EQ(values[i], expected) << i;
  }
}

TYPED_TEST_P(CommunicatorTest, SumsInRankOrderBitForBit) {
  TypeParam::Run([](Communicator& comm) {
    for (const size_t size : {0, 1, 2, 7, 1000, 5003}) {
      CheckSum<float>(comm, size);
      CheckSum<double>(comm, size);
    }
    // Long enough to go in several pieces under MPI.
    std::vector<float> ones(3'000'017, 1.0f);
    comm.AllReduceSum(std::span<float>(ones));
    EXPECT_EQ(std::count(ones.begin(), ones.end(), static_cast<float>(comm.size())),
              std::ssize(ones));
  });
}

TYPED_TEST_P(CommunicatorTest, BroadcastAndAllGather) {
  TypeParam::Run([](Communicator& comm) {
    for (int root = 0; root < comm.size(); ++root) {
      for (const size_t size : {0, 1, 100000}) {
        std::vector<std::byte> bytes = Pattern(size, comm.rank() == root ? root : 100);
        comm.Broadcast(bytes, root);
        EXPECT_EQ(bytes, Pattern(size, root));
      }
    }
    // Of other lengths; rank 0's is empty.
    const auto all = comm.AllGather(Pattern(comm.rank() * 1000, comm.rank()));
    ASSERT_EQ(static_cast<int>(all.size()), comm.size());
    for (int rank = 0; rank < comm.size(); ++rank) EXPECT_EQ(all[rank], Pattern(rank * 1000, rank));
  });
}

TYPED_TEST_P(CommunicatorTest, Split) {
  TypeParam::Run([](Communicator& comm) {
    // Odd and even ranks apart; messages with one tag do not cross.
    auto part = comm.Split(comm.rank() % 2);
    EXPECT_EQ(part->rank(), comm.rank() / 2);
    EXPECT_EQ(part->size(), (comm.size() + 1 - comm.rank() % 2) / 2);
    std::vector<double> sum = {static_cast<double>(comm.rank())};
    part->AllReduceSum(std::span<double>(sum));
    double expected = 0;
    for (int rank = comm.rank() % 2; rank < comm.size(); rank += 2) expected += rank;
    EXPECT_EQ(sum[0], expected);

    std::vector<int> mine = {comm.rank()};
    std::vector<int> theirs = {-1};
    auto send = part->Send(Bytes(mine), (part->rank() + 1) % part->size(), 0);
    auto receive =
        part->Receive(Bytes(theirs), (part->rank() + part->size() - 1) % part->size(), 0);
    part->Wait(receive);
    part->Wait(send);
    const int previous = (part->rank() + part->size() - 1) % part->size();
    EXPECT_EQ(theirs[0], previous * 2 + comm.rank() % 2);
    EXPECT_EQ(comm.bytes_sent(), 0);

    // A group of one, and a split of a split.
    auto alone = part->Split(part->rank());
    EXPECT_EQ(alone->size(), 1);
    alone->Barrier();
    comm.Barrier();
  });
}

TYPED_TEST_P(CommunicatorTest, BarrierSeparates) {
  TypeParam::Run([](Communicator& comm) {
    for (int round = 0; round < 20; ++round) {
      std::vector<int> seen = {comm.rank() + round};
      const auto all = comm.AllGather(Bytes(seen));
      comm.Barrier();
      for (int rank = 0; rank < comm.size(); ++rank) {
        int value = 0;
        std::memcpy(&value, all[rank].data(), sizeof(value));
        EXPECT_EQ(value, rank + round);
      }
    }
  });
}

REGISTER_TYPED_TEST_SUITE_P(CommunicatorTest, RingExchange, SharedBytesGoFromRankToRank,
                            MessagesWithOneTagKeepTheirOrderAndTagsAreApart, SendsToItself,
                            AWrongSizeIsAnError, ProgressFromAnotherThread,
                            SumsInRankOrderBitForBit, BroadcastAndAllGather, Split,
                            BarrierSeparates);

}  // namespace ringwise
