#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ringwise {

// A document of Reuters-21578.
struct Newswire {
  std::string id;     // its NEWID
  std::string topic;  // the first; empty: it has none
  std::string text;   // UTF-8: title, newline, body; of one without either, all of its text
};

// The newswires of one of its files, SGML in Latin-1. `name` is for messages. Throws FileError:
// none, a newswire without end, TOPICS or TEXT.
std::vector<Newswire> ParseNewswires(std::string_view sgml, const std::string& name);

// Latin-1 text with tags and character references as UTF-8 without them. Control characters (the
// newswires begin and end with some) are left out, newlines and tabs apart.
std::string PlainText(std::string_view sgml);

}  // namespace ringwise
