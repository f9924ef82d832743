#pragma once

#include <stdexcept>
#include <string>

namespace ringwise {

// Every error Ringwise throws. The message is one line: what was expected, what was found, what to
// do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The caller asked for something that cannot be: a bad flag, option or combination. Exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// Shapes, types or lengths of the arguments disagree. Names the argument and both sizes.
class ShapeError : public Error {
 public:
  using Error::Error;
};

// A file or folder is missing, unreadable, truncated, corrupt, or of another kind.
class FileError : public Error {
 public:
  using Error::Error;
};

}  // namespace ringwise
