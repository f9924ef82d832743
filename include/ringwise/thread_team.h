#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace ringwise {

class Tracer;

// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// Part `index` of `parts` of [0, count): contiguous, in order, sizes that differ by at most
// `multiple`. Every boundary but the last is a multiple of `multiple`.
Range SplitRange(int64_t count, int parts, int index, int64_t multiple = 1);

// Cores this process may run on, from its affinity mask.
int AvailableCores();

// A fixed team of threads that run one task together. The thread that calls is member 0, so a team
// of one starts no thread at all. Not re-entrant: a task must not call Run or ForEach of its own
// team. Between calls the members first spin for some microseconds, then sleep.
//
//   ThreadTeam team(4);
//   team.Run([&](int thread) { Work(SplitRange(rows, team.size(), thread)); });
class ThreadTeam {
 public:
  // Throws UsageError if threads < 1, Error if the system does not give so many. `trace`, of as
  // many threads, outlives the team; it then shows what each member did when. Null: nothing is
  // recorded.
  explicit ThreadTeam(int threads, Tracer* trace = nullptr);
  // A team that does no work: Run and ForEach return without calling their tasks. What is called
  // with it allocates and sends what it would, in no time, and leaves its results undefined: how
  // memory is metered without computing. It starts no thread. Throws UsageError likewise.
  static ThreadTeam Rehearsal(int threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const;
  bool rehearses() const;

  // Calls task(thread) once on every member and returns when all are done. If tasks throw, rethrows
  // the first exception.
  void Run(const std::function<void(int thread)>& task);

  // The same of tasks that decide what is allocated, or allocate: called in rehearsals too, there
  // by one thread after the other.
  void Prepare(const std::function<void(int thread)>& task);
  void PrepareEach(int64_t count, const std::function<void(int64_t index, int thread)>& body);

  // Calls body(index, thread) for every index in [0, count), each once, whichever member is free
  // next. Results must not depend on which member ran what: write by index, never accumulate by
  // arrival.
  void ForEach(int64_t count, const std::function<void(int64_t index, int thread)>& body);

  // Inside Run: returns once every member has called it, in a rehearsal at once. If a member has
  // thrown, throws Error instead.
  void Barrier();

 private:
  class State;
  explicit ThreadTeam(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace ringwise
