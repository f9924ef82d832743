#pragma once

#include <fmt/format.h>

#include <string>

#include "ringwise/error.h"

// Checks of flags, whose errors are UsageErrors that name them.
namespace ringwise {

inline void Require(bool holds, const std::string& what) {
  if (!holds) throw UsageError(what);
}

template <class Number>
void RequireAtLeast(const char* flag, Number value, Number least) {
  Require(value >= least, fmt::format("--{} must be {} or more, found {}", flag, least, value));
}

template <class Number>
void RequireWithin(const char* flag, Number value, Number least, Number most) {
  RequireAtLeast(flag, value, least);
  Require(value <= most, fmt::format("--{} must be at most {}, found {}", flag, most, value));
}

// Of something to be dropped: not all of it.
inline void RequireProbability(const char* flag, double value) {
  Require(value >= 0 && value < 1, fmt::format("--{} must be in [0, 1), found {}", flag, value));
}

}  // namespace ringwise
