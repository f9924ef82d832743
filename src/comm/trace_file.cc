#include "comm/trace_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <span>
#include <string_view>
#include <vector>

#include "core/file_writer.h"

namespace ringwise {
namespace {

using std::chrono::nanoseconds;

constexpr int kTag = 0;

std::string HostName() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  std::string host = name.data();
  std::replace_if(
      host.begin(), host.end(), [](char c) { return c < ' ' || c == '"' || c == '\\'; }, '?');
  return host;
}

// One rank's events as the elements of a JSON list, without its brackets.
class RankEvents {
 public:
  using ToMicroseconds = std::function<double(Tracer::Clock::time_point)>;

  RankEvents(const Tracer& trace, int rank, const ToMicroseconds& microseconds)
      : rank_(rank), microseconds_(microseconds) {
    Describe("process_name", 0, fmt::format("\"name\":\"rank {} on {}\"", rank, HostName()));
    Describe("process_sort_index", 0, fmt::format("\"sort_index\":{}", rank));
    for (int thread = 0; thread < trace.threads(); ++thread) {
      AddRow(fmt::format("thread {}", thread), trace.events(thread));
    }
    AddLanes("send", trace.events(trace.send_row()));
    AddLanes("receive", trace.events(trace.receive_row()));
  }

  const std::string& text() const { return text_; }

 private:
  void Describe(const char* what, int tid, const std::string& value) {
    Separate();
    fmt::format_to(std::back_inserter(text_),
                   "{{\"ph\":\"M\",\"pid\":{},\"tid\":{},\"name\":\"{}\",\"args\":{{{}}}}}", rank_,
                   tid, what, value);
  }

  void AddRow(const std::string& name, const std::vector<TraceEvent>& events) {
    Describe("thread_name", rows_, fmt::format("\"name\":\"{}\"", name));
    Describe("thread_sort_index", rows_, fmt::format("\"sort_index\":{}", rows_));
    for (const TraceEvent& event : events) AddEvent(event);
    ++rows_;
  }

  // A row must nest, and transfers need not: each goes to the first lane that is free.
  void AddLanes(const std::string& name, std::vector<TraceEvent> events) {
    std::stable_sort(events.begin(), events.end(),
                     [](const TraceEvent& a, const TraceEvent& b) { return a.begin < b.begin; });
    std::vector<std::vector<TraceEvent>> lanes(1);
    for (const TraceEvent& event : events) {
      auto lane = std::find_if(lanes.begin(), lanes.end(), [&](const auto& earlier) {
        return earlier.empty() || earlier.back().end <= event.begin;
      });
      if (lane == lanes.end()) lane = lanes.emplace(lane);
      lane->push_back(event);
    }
    for (size_t lane = 0; lane < lanes.size(); ++lane) {
      AddRow(lane == 0 ? name : fmt::format("{} {}", name, lane + 1), lanes[lane]);
    }
  }

  void AddEvent(const TraceEvent& event) {
    Separate();
    const double begin = microseconds_(event.begin);
    const auto out = std::back_inserter(text_);
    fmt::format_to(out, "{{\"ph\":\"X\",\"pid\":{},\"tid\":{},\"cat\":\"{}\",\"name\":\"{}", rank_,
                   rows_, Name(event.kind), event.name);
    const TraceArg& first = event.args[0];
    if (first.key != nullptr) fmt::format_to(out, " {} {}", first.key, first.value);
    fmt::format_to(out, "\",\"ts\":{:.3f},\"dur\":{:.3f},\"args\":{{", begin,
                   microseconds_(event.end) - begin);
    const char* separator = "";
    for (const TraceArg& arg : event.args) {
      if (arg.key == nullptr) break;
      fmt::format_to(out, "{}\"{}\":{}", separator, arg.key, arg.value);
      separator = ",";
    }
    text_ += "}}";
  }

  void Separate() {
    if (!text_.empty()) text_ += ",\n";
  }

  const int rank_;
  const ToMicroseconds microseconds_;
  int rows_ = 0;
  std::string text_;
};

// What the ranks tell rank 0 before their events.
struct Summary {
  int64_t bytes = 0;
  int64_t dropped = 0;
  nanoseconds uncertainty{0};
};

template <class T>
std::span<std::byte> BytesOf(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

void WriteText(FileWriter& file, std::string_view text) {
  file.Write(std::as_bytes(std::span(text)));
}

}  // namespace

TraceFile::TraceFile(Communicator& world, const std::string& path)
    : world_(world.Split(0)), path_(path) {
  if (world_->rank() == 0) CheckWritable(path);
  first_ = MeasureClockOffset(*world_, SteadyNow);
  origin_ = first_.mine;
  world_->Broadcast(BytesOf(origin_), 0);
}

void TraceFile::Write(const Tracer& trace) const {
  const ClockOffset last = MeasureClockOffset(*world_, SteadyNow);
  const auto microseconds = [&](Tracer::Clock::time_point time) {
    const nanoseconds here = time.time_since_epoch();
    return static_cast<double>((OnClockOfRank0(here, first_, last) - origin_).count()) / 1e3;
  };
  const RankEvents events(trace, world_->rank(), microseconds);
  Summary mine;
  mine.bytes = std::ssize(events.text());
  mine.uncertainty = std::max(first_.uncertainty, last.uncertainty);
  for (int row = 0; row < trace.rows(); ++row) mine.dropped += trace.dropped(row);

  if (world_->rank() != 0) {
    auto summary = world_->Send(BytesOf(mine), 0, kTag);
    auto text = world_->Send(std::as_bytes(std::span(events.text())), 0, kTag);
    world_->Wait(summary);
    world_->Wait(text);
    return;
  }

  FileWriter file(path_);
  WriteText(file, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
  WriteText(file, events.text());
  Summary all = mine;
  for (int rank = 1; rank < world_->size(); ++rank) {
    Summary theirs;
    auto summary = world_->Receive(BytesOf(theirs), rank, kTag);
    world_->Wait(summary);
    std::vector<std::byte> text(theirs.bytes);
    auto received = world_->Receive(text, rank, kTag);
    world_->Wait(received);
    WriteText(file, ",\n");
    file.Write(text);
    all.dropped += theirs.dropped;
    all.uncertainty = std::max(all.uncertainty, theirs.uncertainty);
  }
  // Two ranks may differ from rank 0 to either side.
  WriteText(file,
            fmt::format("\n],\"otherData\":{{\"clock_uncertainty_us\":{:.3f},\"dropped\":{}}}}}\n",
                        2 * static_cast<double>(all.uncertainty.count()) / 1e3, all.dropped));
  file.Finish();
}

}  // namespace ringwise
