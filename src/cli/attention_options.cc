#include "cli/attention_options.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "cli/flags.h"
#include "formats/file_io.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

using Json = nlohmann::json;

// Positions are sums of an offset and a length, and must stay far from overflow.
constexpr int64_t kFarthestOffset = int64_t{1} << 60;

std::string Shown(const Json& value) {
  return Quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

Json ParseOptions(const std::string& path) {
  std::set<std::string> keys;
  const auto refuse_twice = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.insert(key).second) {
        throw UsageError(fmt::format("option {} in {} is given twice", Quoted(key), path));
      }
    }
    return true;
  };
  Json options;
  try {
    options = Json::parse(ReadTextFile(path), refuse_twice);
  } catch (const Json::parse_error& error) {
    throw FileError(
        fmt::format("{}: not JSON at byte {}: expected an object such as "
                    "{{\"causal\": true}}",
                    path, error.byte));
  } catch (const Json::exception&) {
    throw FileError(path + ": a number too large to be read");
  }
  if (!options.is_object()) {
    throw FileError(fmt::format("{}: expected a JSON object such as {{\"causal\": true}}, found {}",
                                path, Shown(options)));
  }
  return options;
}

// f32 holds the scale and the positions' arithmetic 64 bits.
bool IsScale(const Json& value) {
  return value.is_number() &&
         std::abs(value.get<double>()) <= static_cast<double>(std::numeric_limits<float>::max());
}

bool IsOffset(const Json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>() <= uint64_t{kFarthestOffset};
  return value.is_number_integer() && value.get<int64_t>() >= -kFarthestOffset;
}

}  // namespace

void ReadAttentionOptions(const std::string& path, WholeAttention& whole) {
  const Json options = ParseOptions(path);
  for (const auto& item : options.items()) {
    const std::string& key = item.key();
    const Json& value = item.value();
    const auto expect = [&](bool right, const char* what) {
      if (right) return;
      throw UsageError(
          fmt::format("option '{}' in {} must be {}, found {}", key, path, what, Shown(value)));
    };
    if (key == "causal") {
      expect(value.is_boolean(), "true or false");
      whole.mask.causal = value.get<bool>();
    } else if (key == "scale") {
      expect(IsScale(value) || value.is_null(), "a number that f32 holds, up to 3.4e38");
      if (!value.is_null()) whole.scale = value.get<double>();
    } else if (key == "query_offset") {
      expect(IsOffset(value) || value.is_null(), "a whole number from -2^60 to 2^60");
      if (!value.is_null()) whole.query_offset = value.get<int64_t>();
    } else {
      const auto nearest = NearestName(key, {"causal", "scale", "query_offset"});
      throw UsageError(fmt::format("option {} in {} is not known{}", Quoted(key), path,
                                   nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
    }
  }
}

}  // namespace ringwise
