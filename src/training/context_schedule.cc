#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "ringwise/error.h"
#include "ringwise/trainer.h"

namespace ringwise {
namespace {

constexpr int64_t kDefaultSteps = 1000;

std::vector<std::string> SplitAt(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

template <class Number>
bool ParsePositive(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value > 0;
}

ContextPhase ParsePhase(const std::string& text) {
  const auto fail = [&] {
    throw UsageError(
        fmt::format("--context-schedule: expected CONTEXT[xBATCH]:STEPS or CONTEXT[xBATCH]:SHARE%, "
                    "for example 256x8:2000, found '{}'",
                    text));
  };
  ContextPhase phase;
  const std::vector<std::string> halves = SplitAt(text, ':');
  if (halves.size() != 2) fail();
  const std::vector<std::string> sizes = SplitAt(halves[0], 'x');
  if (sizes.size() > 2 || !ParsePositive(sizes[0], phase.context)) fail();
  if (sizes.size() == 2 && !ParsePositive(sizes[1], phase.batch)) fail();
  std::string_view length = halves[1];
  if (length.ends_with('%')) {
    length.remove_suffix(1);
    if (!ParsePositive(length, phase.share) || phase.share > 100) fail();
    phase.share /= 100;
  } else if (!ParsePositive(length, phase.steps)) {
    fail();
  }
  return phase;
}

}  // namespace

std::vector<ContextPhase> ParseContextSchedule(const std::string& text) {
  std::vector<ContextPhase> schedule;
  if (text.empty()) return schedule;
  for (const std::string& part : SplitAt(text, ',')) schedule.push_back(ParsePhase(part));
  return schedule;
}

std::string FormatContextSchedule(const std::vector<ContextPhase>& schedule) {
  std::string text;
  for (const ContextPhase& phase : schedule) {
    if (!text.empty()) text += ',';
    text += fmt::format("{}", phase.context);
    if (phase.batch > 0) text += fmt::format("x{}", phase.batch);
    text += phase.share > 0 ? fmt::format(":{:.12g}%", phase.share * 100)
                            : fmt::format(":{}", phase.steps);
  }
  return text;
}

std::vector<ContextPhase> EffectiveSchedule(const TrainOptions& options) {
  if (options.context_schedule.empty()) {
    return {{.context = options.context,
             .batch = options.batch,
             .steps = options.steps > 0 ? options.steps : kDefaultSteps}};
  }
  std::vector<ContextPhase> schedule = options.context_schedule;
  if (schedule.front().batch == 0) schedule.front().batch = options.batch;
  const int64_t tokens = schedule.front().batch * schedule.front().context;
  for (ContextPhase& phase : schedule) {
    if (phase.batch == 0) phase.batch = std::max<int64_t>(1, tokens / phase.context);
  }
  if (schedule.front().share > 0 || options.steps == 0) return schedule;
  // --steps ends the run early, or makes its last phase longer.
  int64_t before = 0;
  for (size_t i = 0; i < schedule.size(); ++i) {
    const bool last = i + 1 == schedule.size();
    if (last || before + schedule[i].steps >= options.steps) {
      schedule[i].steps = options.steps - before;
      schedule.resize(i + 1);
      break;
    }
    before += schedule[i].steps;
  }
  return schedule;
}

double RopeTheta(double base, int64_t reference, int64_t context, int64_t head_dim) {
  if (context <= reference || head_dim <= 2) return base;
  const double stretch = static_cast<double>(context) / static_cast<double>(reference);
  const auto dim = static_cast<double>(head_dim);
  return base * std::pow(stretch, dim / (dim - 2));
}

}  // namespace ringwise
