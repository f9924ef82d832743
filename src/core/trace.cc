#include "ringwise/trace.h"

#include <algorithm>
#include <string>

#include "ringwise/error.h"

namespace ringwise {
namespace {

// Less than can be seen between two bars.
constexpr std::chrono::microseconds kJoinedGap(20);

}  // namespace

std::string_view Name(TraceKind kind) {
  switch (kind) {
    case TraceKind::kPhase:
      return "phase";
    case TraceKind::kCompute:
      return "compute";
    case TraceKind::kSend:
      return "send";
    case TraceKind::kReceive:
      return "receive";
    case TraceKind::kWait:
      return "wait";
  }
  return "";
}

Tracer::Tracer(int threads, int64_t most_spans) : threads_(threads), most_spans_(most_spans) {
  if (threads < 1) {
    throw UsageError("a trace needs 1 thread or more, found " + std::to_string(threads));
  }
  rows_.resize(static_cast<size_t>(threads) + 2);
}

void Tracer::Add(int row, const TraceEvent& event) {
  Row& to = rows_[row];
  to.joins = -1;
  if (std::ssize(to.events) < most_spans_) {
    to.events.push_back(event);
  } else {
    ++to.dropped;
  }
}

void Tracer::AddMember(int member, Clock::time_point begin, Clock::time_point end) {
  Row& row = rows_[member];
  const int64_t number = innermost_ != nullptr ? innermost_->number_ : 0;
  if (row.joins == number && begin - row.events.back().end < kJoinedGap) {
    row.events.back().end = end;
    return;
  }
  TraceEvent event;
  event.kind = TraceKind::kCompute;
  event.name = "work";
  if (innermost_ != nullptr) {
    event.name = innermost_->event_.name;
    event.args = innermost_->event_.args;
  }
  event.begin = begin;
  event.end = end;
  const int64_t dropped = row.dropped;
  Add(member, event);
  if (row.dropped == dropped) row.joins = number;
}

void TraceSpan::Begin(TraceKind kind, const char* name, std::initializer_list<TraceArg> args) {
  event_.kind = kind;
  event_.name = name;
  std::copy_n(args.begin(), std::min(args.size(), TraceEvent::kArgs), event_.args.begin());
  number_ = ++tracer_->spans_;
  outer_ = tracer_->innermost_;
  tracer_->innermost_ = this;
  event_.begin = Tracer::Clock::now();
}

void TraceSpan::End() {
  event_.end = Tracer::Clock::now();
  tracer_->innermost_ = outer_;
  tracer_->Add(0, event_);
}

}  // namespace ringwise
