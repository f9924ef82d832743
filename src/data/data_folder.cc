#include "data/data_folder.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

#include "ringwise/error.h"

namespace ringwise {

namespace fs = std::filesystem;

std::string DataFolder(const std::string& path, const std::string& name, const std::string& marker,
                       const std::string& expected) {
  std::error_code ignored;  // what cannot be examined, reading will complain about
  if (!fs::is_directory(path, ignored) || fs::exists(fs::path(path) / marker, ignored)) return path;
  const fs::path inner = fs::path(path) / name;
  if (fs::exists(inner / marker, ignored)) return inner.string();
  throw FileError(fmt::format("{}: no {} in it; expected {}", path, marker, expected));
}

}  // namespace ringwise
