#include "data/newswires.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "ringwise/error.h"

namespace ringwise {
namespace {

std::optional<std::string_view> Between(std::string_view text, std::string_view open,
                                        std::string_view close) {
  const size_t begin = text.find(open);
  if (begin == std::string_view::npos) return std::nullopt;
  const size_t end = text.find(close, begin + open.size());
  if (end == std::string_view::npos) return std::nullopt;
  return text.substr(begin + open.size(), end - begin - open.size());
}

std::string Trimmed(const std::string& text) {
  constexpr const char* kWhite = " \t\n";
  const size_t begin = text.find_first_not_of(kWhite);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(kWhite) - begin + 1);
}

// Latin-1 is the start of Unicode, and no reference of these files goes beyond it.
void AppendCharacter(uint32_t character, std::string& text) {
  const bool control = (character < 0x20 && character != '\n' && character != '\t') ||
                       (character >= 0x7f && character < 0xa0);
  if (control) return;
  if (character < 0x80) {
    text += static_cast<char>(character);
  } else {
    text += static_cast<char>(0xc0 | character >> 6);
    text += static_cast<char>(0x80 | (character & 0x3f));
  }
}

// The character that a reference "&...;" at the start of `text` stands for, and its length.
std::optional<std::pair<uint32_t, size_t>> Reference(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, char>, 4> kNames = {
      {{"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}}};
  for (const auto& [name, character] : kNames) {
    if (text.starts_with(name)) return std::pair(static_cast<uint32_t>(character), name.size());
  }
  if (!text.starts_with("&#")) return std::nullopt;
  uint32_t character = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + 2, end, character);
  if (error != std::errc() || stop == end || *stop != ';' || character > 0xff) return std::nullopt;
  return std::pair(character, static_cast<size_t>(stop + 1 - text.data()));
}

std::string TextOf(std::string_view content) {
  std::string text;
  for (const auto& [open, close] : {std::pair("<TITLE>", "</TITLE>"), {"<BODY>", "</BODY>"}}) {
    const auto part = Between(content, open, close);
    if (!part) continue;
    if (!text.empty()) text += '\n';
    text += Trimmed(PlainText(*part));
  }
  return text.empty() ? Trimmed(PlainText(content)) : text;
}

Newswire Parse(std::string_view newswire, const std::string& name) {
  const std::string id(Between(newswire, "NEWID=\"", "\"").value_or("without NEWID"));
  const auto topics = Between(newswire, "<TOPICS>", "</TOPICS>");
  const auto text = Between(newswire, "<TEXT", "</TEXT>");
  if (!topics || !text) {
    throw FileError(
        fmt::format("{}: newswire {} has no {}; the file is corrupt, unpack or "
                    "download it again",
                    name, id, topics ? "<TEXT>" : "<TOPICS>"));
  }
  const std::string_view topic = Between(*topics, "<D>", "</D>").value_or("");
  // After the end of the tag, which may have attributes.
  return {id, std::string(topic), TextOf(text->substr(text->find('>') + 1))};
}

}  // namespace

std::string PlainText(std::string_view sgml) {
  std::string text;
  text.reserve(sgml.size());
  for (size_t i = 0; i < sgml.size();) {
    if (sgml[i] == '<') {
      const size_t end = sgml.find('>', i);
      if (end != std::string_view::npos) {
        i = end + 1;
        continue;
      }
    }
    if (sgml[i] == '&') {
      if (const auto reference = Reference(sgml.substr(i))) {
        AppendCharacter(reference->first, text);
        i += reference->second;
        continue;
      }
    }
    AppendCharacter(static_cast<unsigned char>(sgml[i++]), text);
  }
  return text;
}

std::vector<Newswire> ParseNewswires(std::string_view sgml, const std::string& name) {
  constexpr std::string_view kOpen = "<REUTERS ";
  constexpr std::string_view kClose = "</REUTERS>";
  std::vector<Newswire> newswires;
  for (size_t begin = sgml.find(kOpen); begin != std::string_view::npos;) {
    const size_t end = sgml.find(kClose, begin);
    if (end == std::string_view::npos) {
      throw FileError(fmt::format(
          "{}: ends inside a newswire; the file is truncated, unpack or download it again", name));
    }
    newswires.push_back(Parse(sgml.substr(begin, end - begin), name));
    begin = sgml.find(kOpen, end);
  }
  if (newswires.empty()) {
    throw FileError(fmt::format("{}: no newswires in it; unpack or download it again", name));
  }
  return newswires;
}

}  // namespace ringwise
