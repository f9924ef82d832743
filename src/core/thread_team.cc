#include "ringwise/thread_team.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/trace.h"

namespace ringwise {
namespace {

// Long enough to cover the gap between two kernels of one layer, short enough to cost nothing when
// ranks outnumber cores.
constexpr int kSpins = 4000;

// Shorter waits at the end of a task are not worth a bar of a trace.
constexpr std::chrono::microseconds kShownWait(20);

void RequireOne(int threads) {
  if (threads >= 1) return;
  throw UsageError("a team needs 1 thread or more, found " + std::to_string(threads));
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Returns once `word` is no longer `old`.
void AwaitChange(const std::atomic<uint32_t>& word, uint32_t old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (word.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

}  // namespace

Range SplitRange(int64_t count, int parts, int index, int64_t multiple) {
  const int64_t units = (count + multiple - 1) / multiple;
  const int64_t base = units / parts;
  const int64_t extra = units % parts;
  const auto start = [&](int64_t part) { return part * base + std::min<int64_t>(part, extra); };
  return {std::min(count, start(index) * multiple), std::min(count, start(index + 1) * multiple)};
}

int AvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) {
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  return std::max(1, CPU_COUNT(&set));
}

class ThreadTeam::State {
 public:
  State(int size, bool rehearses, Tracer* trace)
      : size_(size), rehearses_(rehearses), trace_(trace) {
    if (rehearses) return;
    threads_.reserve(size - 1);
    try {
      for (int member = 1; member < size; ++member) {
        threads_.emplace_back([this, member] { Serve(member); });
      }
    } catch (const std::system_error& error) {
      Stop();
      throw Error("cannot start " + std::to_string(size) + " threads: " + error.code().message() +
                  " after " + std::to_string(threads_.size() + 1) +
                  ": ask for fewer, or raise the limits on processes and memory");
    } catch (...) {
      Stop();
      throw;
    }
  }

  ~State() { Stop(); }

  int size() const { return size_; }
  bool rehearses() const { return rehearses_; }

  void Run(const std::function<void(int)>& task) {
    if (rehearses_) return;
    task_ = &task;
    failed_.store(false);
    barrier_arrived_.store(0, std::memory_order_relaxed);
    const uint32_t done = finished_generation_.load(std::memory_order_acquire);
    running_.store(size_, std::memory_order_relaxed);
    Announce(generation_);
    RunOne(0);
    AwaitOthers(done);
    if (first_error_) std::rethrow_exception(std::exchange(first_error_, nullptr));
  }

  void Prepare(const std::function<void(int)>& task) {
    if (!rehearses_) return Run(task);
    for (int member = 0; member < size_; ++member) task(member);
  }

  void Barrier() {
    if (rehearses_) return;
    // The order matters: a failing member sets `failed_`, then moves the phase, so whoever read the
    // old phase is woken and whoever reads the new one sees the failure.
    const uint32_t phase = barrier_phase_.load(std::memory_order_acquire);
    ThrowIfFailed();
    if (barrier_arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      barrier_arrived_.store(0, std::memory_order_relaxed);
      Announce(barrier_phase_);
    } else {
      AwaitChange(barrier_phase_, phase);
    }
    ThrowIfFailed();
  }

 private:
  static void Announce(std::atomic<uint32_t>& word) {
    word.fetch_add(1, std::memory_order_acq_rel);
    word.notify_all();
  }

  void Stop() {
    stopping_ = true;
    Announce(generation_);
    for (std::thread& thread : threads_) thread.join();
  }

  void Serve(int member) {
    uint32_t seen = 0;
    while (true) {
      AwaitChange(generation_, seen);
      ++seen;
      if (stopping_) return;
      RunOne(member);
    }
  }

  void AwaitOthers(uint32_t done) {
    if (trace_ == nullptr || size_ == 1) return AwaitChange(finished_generation_, done);
    TraceEvent wait;
    wait.begin = Tracer::Clock::now();
    AwaitChange(finished_generation_, done);
    wait.end = Tracer::Clock::now();
    if (wait.end - wait.begin < kShownWait) return;
    wait.kind = TraceKind::kWait;
    wait.name = "wait for the team";
    trace_->Add(0, wait);
  }

  void RunTask(int member) const {
    // What the rank's own thread does is in its spans already.
    if (trace_ == nullptr || member == 0) return (*task_)(member);
    const auto begin = Tracer::Clock::now();
    (*task_)(member);
    trace_->AddMember(member, begin, Tracer::Clock::now());
  }

  void RunOne(int member) {
    try {
      RunTask(member);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_acq_rel))
        first_error_ = std::current_exception();
      Announce(barrier_phase_);
    }
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) Announce(finished_generation_);
  }

  void ThrowIfFailed() const {
    if (failed_.load(std::memory_order_acquire)) throw Error("another thread of the team failed");
  }

  const int size_;
  const bool rehearses_;
  Tracer* const trace_;
  std::vector<std::thread> threads_;
  std::exception_ptr first_error_;
  const std::function<void(int)>* task_ = nullptr;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> failed_{false};
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint32_t> finished_generation_{0};
  std::atomic<int> running_{0};
  std::atomic<uint32_t> barrier_phase_{0};
  std::atomic<int> barrier_arrived_{0};
};

ThreadTeam::ThreadTeam(int threads, Tracer* trace) {
  RequireOne(threads);
  state_ = std::make_unique<State>(threads, false, trace);
}

ThreadTeam::ThreadTeam(std::unique_ptr<State> state) : state_(std::move(state)) {}

ThreadTeam ThreadTeam::Rehearsal(int threads) {
  RequireOne(threads);
  return ThreadTeam(std::make_unique<State>(threads, true, nullptr));
}

ThreadTeam::~ThreadTeam() = default;

int ThreadTeam::size() const { return state_->size(); }

bool ThreadTeam::rehearses() const { return state_->rehearses(); }

void ThreadTeam::Run(const std::function<void(int)>& task) { state_->Run(task); }

void ThreadTeam::Prepare(const std::function<void(int)>& task) { state_->Prepare(task); }

void ThreadTeam::PrepareEach(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (!rehearses()) return ForEach(count, body);
  for (int64_t index = 0; index < count; ++index) body(index, 0);
}

void ThreadTeam::ForEach(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (rehearses()) return;
  if (size() == 1 || count <= 1) {
    for (int64_t index = 0; index < count; ++index) body(index, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  Run([&](int thread) {
    for (int64_t index = next++; index < count; index = next++) body(index, thread);
  });
}

void ThreadTeam::Barrier() { state_->Barrier(); }

}  // namespace ringwise
