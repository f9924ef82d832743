#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>

#include "comm/blocked_wait.h"
#include "comm/check_message.h"
#include "comm/mpi_communicator.h"
#include "comm/rank_order_sum.h"
#include "comm/thread_communicator.h"
#include "ringwise/thread_team.h"

namespace ringwise {
namespace {

void Check(int code) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw PeerError(fmt::format("MPI failed: {}", std::string_view(text, length)));
}

// MPI is one a process: started on first use, ended with the process.
class MpiSession {
 public:
  static MpiSession& Get() {
    static MpiSession session;
    return session;
  }
  std::mutex& mutex() { return mutex_; }  // held during every call of MPI

 private:
  MpiSession() {
    int provided = 0;
    Check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided));
    if (provided < MPI_THREAD_SERIALIZED) {
      throw Error(
          "this MPI can be called from one thread only: build or choose one that gives "
          "MPI_THREAD_SERIALIZED");
    }
    Check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  }
  ~MpiSession() { MPI_Finalize(); }

  std::mutex mutex_;
};

// Polls until `is_done()`, which calls MPI, is true. Ranks may outnumber cores, so a wait that
// lasts gives the core away.
template <class IsDone>
void Poll(const IsDone& is_done, double timeout_seconds, int waiter, int peer) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto deadline = begin + std::chrono::duration<double>(timeout_seconds);
  const auto patience = begin + std::chrono::milliseconds(1);
  for (int poll = 0;; ++poll) {
    {
      const std::lock_guard lock(MpiSession::Get().mutex());
      if (is_done()) return;
    }
    if (poll < 16) continue;
    const auto now = Clock::now();
    if (now > deadline) ThrowTimedOut(timeout_seconds, waiter, peer);
    if (now < patience) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

class MpiTransfer;

// Transfers of one communicator that are not done, oldest first.
using PendingTransfers = std::list<MpiTransfer*>;

// One message, in one part or more. Every member but the destructor is called with the lock held.
class MpiTransfer final : public Communicator::Transfer {
 public:
  MpiTransfer(PendingTransfers& pending, bool is_receive, int peer, int tag, size_t size)
      : pending_(pending), is_receive_(is_receive), peer_(peer), tag_(tag), size_(size) {
    pending_.push_back(this);
  }

  // Only an unwinding rank destroys a transfer under way, and its memory goes too.
  ~MpiTransfer() override {
    const std::lock_guard lock(MpiSession::Get().mutex());
    pending_.remove(this);
    for (MPI_Request& request : requests_) {
      if (request == MPI_REQUEST_NULL) continue;
      if (is_receive_) MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }

  std::vector<MPI_Request>& requests() { return requests_; }
  int peer() const { return peer_; }

  // Moves it, and everything else in MPI, forward. True once done.
  bool Test() {
    if (done_) return true;
    std::vector<MPI_Status> statuses(requests_.size());
    int flag = 0;
    error_ =
        MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &flag, statuses.data());
    if (error_ == MPI_SUCCESS && flag == 0) return false;
    if (error_ == MPI_ERR_IN_STATUS) {
      for (const MPI_Status& status : statuses) {
        if (status.MPI_ERROR == MPI_ERR_PENDING) return false;
      }
      for (const MPI_Status& status : statuses) {
        if (status.MPI_ERROR != MPI_SUCCESS) error_ = status.MPI_ERROR;
      }
    }
    for (const MPI_Status& status : statuses) {
      MPI_Count count = 0;
      if (is_receive_ && error_ == MPI_SUCCESS) MPI_Get_elements_x(&status, MPI_BYTE, &count);
      found_ += static_cast<size_t>(count);
    }
    done_ = true;
    completed_ = std::chrono::steady_clock::now();
    pending_.remove(this);
    return true;
  }
  bool done() const { return done_; }
  Communicator::Time completed() const { return completed_; }  // of a transfer that is done

  // Of a transfer that is done.
  void CheckResult() const {
    if (!is_receive_) return Check(error_);
    int error_class = MPI_SUCCESS;
    if (error_ != MPI_SUCCESS) MPI_Error_class(error_, &error_class);
    if (error_class == MPI_ERR_TRUNCATE) {
      throw ShapeError(
          fmt::format("expected {} bytes from rank {} with tag {}, found more: the ranks do not "
                      "agree on shapes",
                      size_, peer_, tag_));
    }
    Check(error_);
    CheckReceivedSize(size_, found_, peer_, tag_);
  }

 private:
  PendingTransfers& pending_;
  const bool is_receive_;
  const int peer_;
  const int tag_;
  const size_t size_;
  std::vector<MPI_Request> requests_;
  bool done_ = false;
  Communicator::Time completed_;
  int error_ = MPI_SUCCESS;
  size_t found_ = 0;
};

template <class T>
MPI_Datatype TypeOf() {
  return sizeof(T) == sizeof(float) ? MPI_FLOAT : MPI_DOUBLE;
}

class MpiCommunicator final : public Communicator {
 public:
  // Takes `comm`.
  MpiCommunicator(MPI_Comm comm, const MpiOptions& options) : comm_(comm), options_(options) {
    const std::lock_guard lock(mutex_);
    Check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    Check(MPI_Comm_rank(comm_, &rank_));
    Check(MPI_Comm_size(comm_, &size_));
  }
  ~MpiCommunicator() override {
    // MPI_Comm_free is collective: an unwinding rank would wait there for the others.
    if (std::uncaught_exceptions() > 0) return;
    const std::lock_guard lock(mutex_);
    MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  TransferPtr Send(std::span<const std::byte> bytes, int destination, int tag) override {
    CheckMessage("destination", destination, tag, size_);
    if (destination == rank_) return self_->Send(bytes, 0, tag);
    std::unique_ptr<MpiTransfer> transfer;  // outlives the lock, which its destructor takes
    const std::lock_guard lock(mutex_);
    transfer = std::make_unique<MpiTransfer>(pending_, false, destination, tag, bytes.size());
    ForEachPart(bytes, [&](std::span<const std::byte> part) {
      MPI_Request& request = transfer->requests().emplace_back(MPI_REQUEST_NULL);
      Check(MPI_Isend(part.data(), static_cast<int>(part.size()), MPI_BYTE, destination, tag, comm_,
                      &request));
    });
    bytes_sent_ += static_cast<int64_t>(bytes.size());
    return transfer;
  }

  TransferPtr Receive(std::span<std::byte> bytes, int source, int tag) override {
    CheckMessage("source", source, tag, size_);
    if (source == rank_) return self_->Receive(bytes, 0, tag);
    std::unique_ptr<MpiTransfer> transfer;  // outlives the lock, which its destructor takes
    const std::lock_guard lock(mutex_);
    transfer = std::make_unique<MpiTransfer>(pending_, true, source, tag, bytes.size());
    ForEachPart(bytes, [&](std::span<std::byte> part) {
      MPI_Request& request = transfer->requests().emplace_back(MPI_REQUEST_NULL);
      Check(MPI_Irecv(part.data(), static_cast<int>(part.size()), MPI_BYTE, source, tag, comm_,
                      &request));
    });
    return transfer;
  }

  Time Wait(TransferPtr& transfer) override {
    if (!transfer) return std::chrono::steady_clock::now();
    auto* const started = dynamic_cast<MpiTransfer*>(transfer.get());
    if (started == nullptr) return self_->Wait(transfer);
    const auto is_done = [&] {
      TestPending();
      return started->done();
    };
    Poll(is_done, options_.timeout_seconds, rank_, started->peer());
    const TransferPtr done = std::move(transfer);  // reset even if it throws
    started->CheckResult();
    return started->completed();
  }

  void Progress() override {
    // Somebody inside MPI moves everything already.
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return;
    TestPending();
  }

  void Barrier() override {
    Collective([&](MPI_Request* request) { return MPI_Ibarrier(comm_, request); });
  }

  void AllReduceSum(std::span<float> values) override { Sum(values); }
  void AllReduceSum(std::span<double> values) override { Sum(values); }

  void Broadcast(std::span<std::byte> bytes, int root) override {
    CheckMessage("root", root, 0, size_);
    ForEachPart(bytes, [&](std::span<std::byte> part) {
      Collective([&](MPI_Request* request) {
        return MPI_Ibcast(part.data(), static_cast<int>(part.size()), MPI_BYTE, root, comm_,
                          request);
      });
    });
  }

  std::vector<std::vector<std::byte>> AllGather(std::span<const std::byte> bytes) override {
    const int64_t mine = std::ssize(bytes);
    std::vector<int64_t> lengths(size_);
    Collective([&](MPI_Request* request) {
      return MPI_Iallgather(&mine, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, comm_, request);
    });
    std::vector<std::vector<std::byte>> all;
    all.reserve(lengths.size());
    for (const int64_t length : lengths) all.emplace_back(length);
    const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    if (total <= options_.part_bytes) {
      std::vector<int> counts(lengths.begin(), lengths.end());
      std::vector<int> offsets(size_);
      std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
      std::vector<std::byte> joined(total);
      Collective([&](MPI_Request* request) {
        return MPI_Iallgatherv(bytes.data(), static_cast<int>(mine), MPI_BYTE, joined.data(),
                               counts.data(), offsets.data(), MPI_BYTE, comm_, request);
      });
      for (int rank = 0; rank < size_; ++rank) {
        std::copy_n(joined.begin() + offsets[rank], counts[rank], all[rank].begin());
      }
      return all;
    }
    // Too long for MPI's 32-bit counts: one broadcast a rank.
    for (int rank = 0; rank < size_; ++rank) {
      if (rank == rank_) std::copy(bytes.begin(), bytes.end(), all[rank].begin());
      if (lengths[rank] > 0) Broadcast(all[rank], rank);
    }
    return all;
  }

  std::unique_ptr<Communicator> Split(int color) override {
    Barrier();  // so that a rank which is late or gone is noticed by the time-out
    MPI_Comm part = MPI_COMM_NULL;
    {
      const std::lock_guard lock(mutex_);
      Check(MPI_Comm_split(comm_, color, rank_, &part));
    }
    return std::make_unique<MpiCommunicator>(part, options_);
  }

  int64_t bytes_sent() const override { return bytes_sent_; }

 private:
  // Every transfer under way, so that each is seen to complete when it does. With the lock held.
  void TestPending() {
    for (auto next = pending_.begin(); next != pending_.end();) {
      MpiTransfer& transfer = **next++;  // it leaves the list once done
      transfer.Test();
    }
  }

  // At least one part, also of nothing.
  template <class Span, class Function>
  void ForEachPart(Span bytes, const Function& function) const {
    const auto part_bytes = static_cast<size_t>(options_.part_bytes);
    size_t begin = 0;
    do {
      const size_t length = std::min(part_bytes, bytes.size() - begin);
      function(bytes.subspan(begin, length));
      begin += length;
    } while (begin < bytes.size());
  }

  // Starts a collective and waits for it, but never past the time-out. One that is under way cannot
  // be called off, and MPI may use its memory until it is done: so if it fails the job ends here,
  // with that memory in place.
  template <class Start>
  void Collective(const Start& start) {
    MPI_Request request = MPI_REQUEST_NULL;
    {
      const std::lock_guard lock(mutex_);
      Check(start(&request));
    }
    const auto is_done = [&] {
      int flag = 0;
      Check(MPI_Test(&request, &flag, MPI_STATUS_IGNORE));
      return flag != 0;
    };
    try {
      Poll(is_done, options_.timeout_seconds, rank_, -1);
    } catch (const std::exception& error) {
      FailMpiJob(error.what(), 1);
    }
  }

  // In pieces, so that scratch memory stays small: of a piece, rank r gets every rank's slice r,
  // adds them, and all gather the sums.
  template <class T>
  void Sum(std::span<T> values) {
    constexpr int64_t kPiece = 1 << 20;
    const auto length = std::ssize(values);
    if (size_ == 1) return;
    std::vector<T> slices(std::min(kPiece, length) + size_);
    std::vector<int> counts(size_), offsets(size_), slice_counts(size_), slice_offsets(size_);
    for (int64_t begin = 0; begin < length; begin += kPiece) {
      T* const piece = values.data() + begin;
      const int64_t count = std::min(kPiece, length - begin);
      const Range mine = SplitRange(count, size_, rank_);
      std::vector<const T*> sources;
      for (int rank = 0; rank < size_; ++rank) {
        const Range slice = SplitRange(count, size_, rank);
        counts[rank] = static_cast<int>(slice.size());
        offsets[rank] = static_cast<int>(slice.begin);
        slice_counts[rank] = static_cast<int>(mine.size());
        slice_offsets[rank] = static_cast<int>(mine.size() * rank);
        sources.push_back(slices.data() + slice_offsets[rank]);
      }
      Collective([&](MPI_Request* request) {
        return MPI_Ialltoallv(piece, counts.data(), offsets.data(), TypeOf<T>(), slices.data(),
                              slice_counts.data(), slice_offsets.data(), TypeOf<T>(), comm_,
                              request);
      });
      SumInRankOrder<T>(sources, mine.size(), piece + mine.begin);
      Collective([&](MPI_Request* request) {
        return MPI_Iallgatherv(MPI_IN_PLACE, 0, TypeOf<T>(), piece, counts.data(), offsets.data(),
                               TypeOf<T>(), comm_, request);
      });
    }
  }

  std::mutex& mutex_ = MpiSession::Get().mutex();
  MPI_Comm comm_;
  const MpiOptions options_;
  int rank_ = 0;
  int size_ = 1;
  PendingTransfers pending_;
  int64_t bytes_sent_ = 0;
  // Messages to oneself: Open MPI does not tell when their sizes differ.
  std::unique_ptr<Communicator> self_ = std::move(
      MakeThreadCommunicators(1, options_.timeout_seconds, std::make_shared<SharedFailure>())[0]);
};

}  // namespace

std::unique_ptr<Communicator> MakeMpiWorld(const MpiOptions& options) {
  MPI_Comm world = MPI_COMM_NULL;
  {
    const std::lock_guard lock(MpiSession::Get().mutex());
    Check(MPI_Comm_dup(MPI_COMM_WORLD, &world));
  }
  return std::make_unique<MpiCommunicator>(world, options);
}

int CoresOfThisRank(Communicator& world) {
  struct Place {
    char host[MPI_MAX_PROCESSOR_NAME] = {};
    cpu_set_t cores{};
  };
  std::vector<Place> mine(1);
  {
    const std::lock_guard lock(MpiSession::Get().mutex());
    int length = 0;
    Check(MPI_Get_processor_name(mine[0].host, &length));
  }
  if (sched_getaffinity(0, sizeof(cpu_set_t), &mine[0].cores) != 0) return 1;
  const auto all = world.AllGather(std::as_bytes(std::span(mine)));
  // Each core counts for 1 / (ranks that may use it): right whether or not mpirun binds ranks.
  std::vector<int> users(CPU_SETSIZE, 0);
  for (const std::vector<std::byte>& bytes : all) {
    Place place;
    std::memcpy(&place, bytes.data(), sizeof(place));
    if (std::strcmp(place.host, mine[0].host) != 0) continue;
    for (int core = 0; core < CPU_SETSIZE; ++core)
      users[core] += CPU_ISSET(core, &place.cores) ? 1 : 0;
  }
  double cores = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &mine[0].cores)) cores += 1.0 / users[core];
  }
  return std::max(1, static_cast<int>(cores + 1e-9));
}

void FailMpiJob(std::string_view message, int exit_code) {
  // Without the lock: its owner may be stuck in MPI, and this call never returns.
  int started = 0;
  int rank = 0;
  MPI_Initialized(&started);
  if (started != 0) MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  std::string line(message);
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fprintf(stderr, "ringwise: rank %d: %s\n", rank, line.c_str());
  std::fflush(nullptr);
  if (started != 0) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace ringwise
