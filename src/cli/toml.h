#pragma once

#include <string>
#include <vector>

namespace ringwise {

// `key = value` or `key = [value, ...]`. Values as text: strings without their quotes, numbers and
// booleans as written.
struct TomlEntry {
  std::string key;
  std::vector<std::string> values;
  int line = 0;
};

// The part of TOML that configuration files need: keys with strings, numbers, booleans and arrays
// of them, on one line or several; comments. No tables. Throws FileError (unreadable) or UsageError
// naming the file and the line.
std::vector<TomlEntry> ReadToml(const std::string& path);
std::vector<TomlEntry> ParseToml(const std::string& text, const std::string& name);

}  // namespace ringwise
