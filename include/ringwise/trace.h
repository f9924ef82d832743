#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

// What one rank did when, for a timeline: docs/tracing.md shows one. A run that is traced
// (MeshOptions::trace) gives every rank a Tracer, by way of its Context; where there is none, a
// span costs the test of a null pointer.
//
//   void Layer(Context& context, int64_t index) {
//     const TraceSpan span(context.trace, TraceKind::kCompute, "layer", {{"index", index}});
//     context.team.Run(...);  // shows as "layer index 3" in the row of every thread
//   }
namespace ringwise {

enum class TraceKind {
  kPhase,    // a part of the run, with the other kinds inside
  kCompute,  // this thread computes
  kSend,     // from posted to complete, as far as this rank can tell
  kReceive,  // from posted to arrived, likewise
  kWait,     // this thread is blocked: for a transfer, the other ranks, or the threads of its team
};
std::string_view Name(TraceKind kind);  // "phase", "compute", "send", "receive", "wait"

struct TraceArg {
  const char* key = nullptr;  // lives for ever, as a literal does; null: none
  int64_t value = 0;
};

// From `begin` to `end` a row did `name`. The first argument becomes part of the name shown.
struct TraceEvent {
  static constexpr size_t kArgs = 3;

  TraceKind kind = TraceKind::kPhase;
  const char* name = "";  // lives for ever; neither it nor a key needs escaping in JSON
  std::array<TraceArg, kArgs> args{};
  std::chrono::steady_clock::time_point begin, end;
};

class TraceSpan;

// The spans of one rank, in rows: one a thread of its team, then one for what it sends and one for
// what it receives. A row is written by one thread at a time and has no lock: row 0 and the
// transfers' by the rank's own thread, row t by member t of its team. Memory is bounded: when a row
// is full, spans are counted and dropped.
class Tracer {
 public:
  using Clock = std::chrono::steady_clock;

  // `most_spans` a row; the default is 12 MiB when full. Throws UsageError if threads < 1.
  explicit Tracer(int threads, int64_t most_spans = 1 << 17);

  int threads() const { return threads_; }
  int rows() const { return static_cast<int>(rows_.size()); }
  int send_row() const { return threads_; }
  int receive_row() const { return threads_ + 1; }

  void Add(int row, const TraceEvent& event);

  // What `member` of the team did for the innermost span that is open on the rank's own thread,
  // which must not close it meanwhile. Pieces of one span with gaps below 20 us are joined, so that
  // many short tasks are one bar.
  void AddMember(int member, Clock::time_point begin, Clock::time_point end);

  // In the order they ended.
  const std::vector<TraceEvent>& events(int row) const { return rows_[row].events; }
  int64_t dropped(int row) const { return rows_[row].dropped; }

 private:
  friend class TraceSpan;

  struct alignas(64) Row {  // a cache line of its own: rows are written side by side
    std::vector<TraceEvent> events;
    int64_t dropped = 0;
    int64_t joins = -1;  // the span that the last event is a piece of, by its number; -1: none
  };

  const int threads_;
  const int64_t most_spans_;
  std::vector<Row> rows_;
  const TraceSpan* innermost_ = nullptr;
  int64_t spans_ = 0;  // opened so far
};

// A span of the rank's own thread, from construction to destruction. Spans nest as scopes do. For
// the rank's own thread alone, and nothing at all if `tracer` is null.
class TraceSpan {
 public:
  TraceSpan(Tracer* tracer, TraceKind kind, const char* name,
            std::initializer_list<TraceArg> args = {})
      : tracer_(tracer) {
    if (tracer_ != nullptr) Begin(kind, name, args);
  }
  ~TraceSpan() {
    if (tracer_ != nullptr) End();
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  friend class Tracer;

  void Begin(TraceKind kind, const char* name, std::initializer_list<TraceArg> args);
  void End();

  Tracer* const tracer_;
  TraceEvent event_;
  int64_t number_ = 0;
  const TraceSpan* outer_ = nullptr;
};

}  // namespace ringwise
