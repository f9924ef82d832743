#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace ringwise {

// Tells a key that an object of a JSON text has twice, of which the parser would keep the last: in
// the callback of Json::parse.
//
//   KeysOnce<Json> keys;
//   Json::parse(text, [&](int, Json::parse_event_t event, Json& parsed) {
//     if (const auto key = keys.Twice(event, parsed)) throw FileError(*key + " is there twice");
//     return true;
//   });
template <class Json>
class KeysOnce {
 public:
  // To be told of every event; the key, if its object has it already.
  std::optional<std::string> Twice(typename Json::parse_event_t event, const Json& parsed) {
    using Event = typename Json::parse_event_t;
    if (event == Event::object_start) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event != Event::key) return std::nullopt;
    const auto& key = parsed.template get_ref<const std::string&>();
    return open_.back().insert(key).second ? std::nullopt : std::optional(key);
  }

 private:
  std::vector<std::set<std::string>> open_;  // the keys so far of the objects that are open
};

}  // namespace ringwise
