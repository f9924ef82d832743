#include "training/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace ringwise {
namespace {

constexpr std::chrono::seconds kBetweenLines{5};
constexpr std::chrono::milliseconds kBetweenRewrites{100};

}  // namespace

std::string FormatDuration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  const int64_t minutes = whole / 60;
  if (minutes < 60) return fmt::format("{}:{:02}", minutes, whole % 60);
  return fmt::format("{}:{:02}:{:02}", minutes / 60, minutes % 60, whole % 60);
}

Progress::Progress(bool enabled) : enabled_(enabled), terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() { Clear(); }

void Progress::Clear() {
  if (shown_ > 0) std::fprintf(stderr, "\r%s\r", std::string(shown_, ' ').c_str());
  shown_ = 0;
}

void Progress::Say(const std::string& text) {
  if (!enabled_) return;
  Clear();
  std::fprintf(stderr, "%s\n", text.c_str());
}

void Progress::Note(const std::string& text) {
  if (!enabled_ || !terminal_) return;
  const size_t pad = shown_ > text.size() ? shown_ - text.size() : 0;
  std::fprintf(stderr, "\r%s%s", text.c_str(), std::string(pad, ' ').c_str());
  shown_ = text.size();
}

bool Progress::IsTime() {
  const auto now = Clock::now();
  const auto pause = terminal_ ? Clock::duration(kBetweenRewrites) : Clock::duration(kBetweenLines);
  if (any_line_ && now - last_line_ < pause) return false;
  any_line_ = true;
  last_line_ = now;
  return true;
}

void Progress::Update(const std::string& text) {
  if (!enabled_ || !IsTime()) return;
  if (terminal_) {
    Note(text);
  } else {
    Say(text);
  }
}

void Progress::Step(const StepRecord& record, int64_t of_steps, double remaining_seconds) {
  if (!enabled_) return;
  const bool lasting = record.final || !record.evaluation.text.empty() || record.stopped_by;
  if (!IsTime() && !lasting) return;
  std::string text = fmt::format("step {}", record.step);
  if (of_steps > 0) text += fmt::format("/{}", of_steps);
  text += fmt::format("  {}  {:.0f} tokens/s  MFU {:.0f} %", record.task.text,
                      record.tokens_per_second, record.mfu * 100);
  if (remaining_seconds >= 0) text += "  left " + FormatDuration(remaining_seconds);
  for (const std::string& figures : {record.evaluation.text, record.conclusion.text}) {
    if (!figures.empty()) text += "  " + figures;
  }
  if (terminal_ && !lasting) {
    Note(text);
  } else {
    Say(text);
  }
}

}  // namespace ringwise
