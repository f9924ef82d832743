#include "cli/toml.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "formats/file_io.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

class Parser {
 public:
  Parser(const std::string& text, const std::string& name) : text_(text), name_(name) {}

  std::vector<TomlEntry> Parse() {
    std::vector<TomlEntry> entries;
    while (SkipBlank(true)) {
      TomlEntry entry;
      entry.line = line_;
      entry.key = Key();
      SkipBlank(false);
      if (!Take('=')) Fail("expected `key = value`");
      SkipBlank(false);
      entry.values = Values();
      SkipBlank(false);
      if (!AtEnd() && Peek() != '\n') Fail("expected the end of the line after the value");
      const bool repeated = std::any_of(entries.begin(), entries.end(),
                                        [&](const TomlEntry& e) { return e.key == entry.key; });
      if (repeated) Fail(fmt::format("key '{}' is given twice", entry.key));
      entries.push_back(std::move(entry));
    }
    return entries;
  }

 private:
  bool AtEnd() const { return at_ >= text_.size(); }
  char Peek() const { return text_[at_]; }
  bool Take(char c) {
    if (AtEnd() || Peek() != c) return false;
    ++at_;
    return true;
  }
  [[noreturn]] void Fail(const std::string& what) const {
    throw UsageError(fmt::format("{}:{}: {}", name_, line_, what));
  }

  // Skips spaces and comments, and line ends too if `lines`. False at the end of the text.
  bool SkipBlank(bool lines) {
    while (!AtEnd()) {
      if (Peek() == '#') {
        while (!AtEnd() && Peek() != '\n') ++at_;
      } else if (Peek() == '\n' && lines) {
        ++line_;
        ++at_;
      } else if (Peek() == ' ' || Peek() == '\t' || Peek() == '\r') {
        ++at_;
      } else {
        break;
      }
    }
    return !AtEnd();
  }

  std::string Key() {
    if (Peek() == '[') Fail("tables are not used here: write the keys without a [section]");
    if (Peek() == '"' || Peek() == '\'') return String();
    const size_t begin = at_;
    while (!AtEnd() && (std::isalnum(static_cast<unsigned char>(Peek())) != 0 || Peek() == '-' ||
                        Peek() == '_')) {
      ++at_;
    }
    if (at_ == begin) Fail("expected a key");
    return text_.substr(begin, at_ - begin);
  }

  std::vector<std::string> Values() {
    if (!Take('[')) return {Value()};
    std::vector<std::string> values;
    while (SkipBlank(true)) {
      if (Take(']')) return values;
      values.push_back(Value());
      SkipBlank(true);
      if (!Take(',') && (AtEnd() || Peek() != ']')) Fail("expected ',' or ']' in the array");
    }
    Fail("the array is not closed by ']'");
  }

  std::string Value() {
    if (AtEnd() || Peek() == '\n') Fail("expected a value after '='");
    if (Peek() == '"' || Peek() == '\'') return String();
    const size_t begin = at_;
    while (!AtEnd() && std::string_view(" \t\r\n,]#").find(Peek()) == std::string_view::npos) ++at_;
    std::string value = text_.substr(begin, at_ - begin);
    const bool number = !value.empty() && std::string_view("+-.0123456789").find(value.front()) !=
                                              std::string_view::npos;
    if (!number && value != "true" && value != "false") {
      Fail(fmt::format("'{}' is not a number or boolean; put text in quotes", value));
    }
    if (number) value.erase(std::remove(value.begin(), value.end(), '_'), value.end());
    return value;
  }

  std::string String() {
    const char quote = text_[at_++];
    std::string value;
    while (!AtEnd() && Peek() != '\n') {
      const char c = text_[at_++];
      if (c == quote) return value;
      value += c == '\\' && quote == '"' ? Escape() : c;
    }
    Fail("the string is not closed");
  }

  char Escape() {
    if (AtEnd()) Fail("the string is not closed");
    const char c = text_[at_++];
    switch (c) {
      case 'n':
        return '\n';
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case '"':
      case '\\':
        return c;
      default:
        Fail(fmt::format("unknown escape '\\{}' (use '...' for text taken as it is)", c));
    }
  }

  const std::string& text_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<TomlEntry> ParseToml(const std::string& text, const std::string& name) {
  return Parser(text, name).Parse();
}

std::vector<TomlEntry> ReadToml(const std::string& path) {
  return ParseToml(ReadTextFile(path), path);
}

}  // namespace ringwise
