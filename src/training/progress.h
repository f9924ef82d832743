#pragma once

#include <chrono>
#include <string>

#include "training/metrics.h"

namespace ringwise {

// The run as a person follows it, on stderr: on a terminal one line that is rewritten, elsewhere a
// line every few seconds.
class Progress {
 public:
  // Shows nothing if not enabled: only rank 0 speaks.
  explicit Progress(bool enabled);
  ~Progress();  // clears the line that would be rewritten
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // A line that stays.
  void Say(const std::string& text);
  // `of_steps` 0 where the number of steps is not known; `remaining_seconds` negative where the
  // time is not.
  void Step(const StepRecord& record, int64_t of_steps, double remaining_seconds);
  // Something under way that is not a step, "evaluating 3/10"; on a terminal alone.
  void Note(const std::string& text);
  // What changes all the time: shown now and then, the last of it perhaps not at all.
  void Update(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;

  void Clear();   // the line
  bool IsTime();  // to show what changes all the time

  bool enabled_;
  bool terminal_;
  size_t shown_ = 0;  // characters of the line that will be rewritten
  Clock::time_point last_line_;
  bool any_line_ = false;
};

// 75 -> "1:15", 3725 -> "1:02:05".
std::string FormatDuration(double seconds);

}  // namespace ringwise
