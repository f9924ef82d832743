#include "cli/attention_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/flags.h"
#include "formats/file_io.h"
#include "formats/keys_once.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

using Json = nlohmann::json;

// Positions are sums of an offset and a length, and must stay far from overflow.
constexpr int64_t kFarthest = int64_t{1} << 60;
constexpr double kLargestFloat = std::numeric_limits<float>::max();

bool IsNormalFloat(double value) {
  return value >= std::numeric_limits<float>::min() && value <= kLargestFloat;
}

std::string Shown(const Json& value) {
  return Quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

Json ParseOptions(const std::string& path) {
  KeysOnce<Json> keys;
  const auto refuse = [&](int depth, Json::parse_event_t event, Json& parsed) {
    constexpr int kDeepest = 16;  // more than options nest, and what can be shown in an error
    if (depth > kDeepest) {
      throw FileError(
          fmt::format("{}: lists and objects nest more than {} deep: expected an "
                      "object such as {{\"causal\": true}}",
                      path, kDeepest));
    }
    if (const auto key = keys.Twice(event, parsed)) {
      throw UsageError(fmt::format("option {} in {} is given twice", Quoted(*key), path));
    }
    return true;
  };
  Json options;
  try {
    options = Json::parse(ReadTextFile(path), refuse);
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

// A value of the file with its name there, such as slices[2].q.
class Item {
 public:
  Item(const std::string& path, std::string name, const Json& value)
      : path_(path), name_(std::move(name)), value_(value) {}

  bool is_null() const { return value_.is_null(); }

  [[noreturn]] void Refuse(const std::string& expected) const {
    throw UsageError(fmt::format("option '{}' in {} must be {}, found {}", name_, path_, expected,
                                 Shown(value_)));
  }

  bool YesOrNo() const {
    if (!value_.is_boolean()) Refuse("true or false");
    return value_.get<bool>();
  }

  // A whole number in [least, most]; `expected` says so.
  int64_t Whole(int64_t least, int64_t most, const std::string& expected) const {
    const bool right =
        value_.is_number_unsigned()
            ? value_.get<uint64_t>() <= static_cast<uint64_t>(std::max<int64_t>(most, 0)) &&
                  value_.get<uint64_t>() >= static_cast<uint64_t>(std::max<int64_t>(least, 0))
            : value_.is_number_integer() && value_.get<int64_t>() >= least &&
                  value_.get<int64_t>() <= most;
    if (!right) Refuse(expected);
    return value_.get<int64_t>();
  }

  template <class Accepts>
  double Number(const Accepts& accepts, const char* expected) const {
    if (!value_.is_number() || !accepts(value_.get<double>())) Refuse(expected);
    return value_.get<double>();
  }

  uint64_t Seed() const {
    if (!value_.is_number_unsigned()) Refuse("a whole number from 0 to 2^64 - 1");
    return value_.get<uint64_t>();
  }

  std::vector<Item> List(const char* expected) const {
    if (!value_.is_array()) Refuse(expected);
    std::vector<Item> items;
    for (size_t i = 0; i < value_.size(); ++i) {
      items.emplace_back(path_, fmt::format("{}[{}]", name_, i), value_[i]);
    }
    return items;
  }

  // [begin, end], 0 <= begin <= end <= length.
  std::pair<int64_t, int64_t> IndexRange(int64_t length) const {
    const std::string expected = fmt::format("[begin, end] with 0 <= begin <= end <= {}", length);
    if (!value_.is_array() || value_.size() != 2) Refuse(expected);
    const auto bound = [&](size_t i) {
      const Json& number = value_[i];
      if (!number.is_number_unsigned() || number.get<uint64_t>() > static_cast<uint64_t>(length)) {
        Refuse(expected);
      }
      return number.get<int64_t>();
    };
    const std::pair<int64_t, int64_t> range{bound(0), bound(1)};
    if (range.first > range.second) Refuse(expected);
    return range;
  }

  // The number of the name.
  size_t OneOf(const std::vector<std::string>& names) const {
    const auto found = value_.is_string()
                           ? std::find(names.begin(), names.end(), value_.get<std::string>())
                           : names.end();
    if (found == names.end()) Refuse(fmt::format("\"{}\"", JoinNames(names, "\" or \"")));
    return static_cast<size_t>(found - names.begin());
  }

  // The value of an object's key; none if it is absent or null.
  std::optional<Item> Member(const std::string& key) const {
    const auto found = value_.find(key);
    if (found == value_.end() || found->is_null()) return std::nullopt;
    return Item(path_, name_.empty() ? key : name_ + "." + key, *found);
  }
  Item Needed(const std::string& key, const char* expected) const {
    const std::optional<Item> member = Member(key);
    if (!member) Refuse(expected);
    return *member;
  }
  // Refuses what is no object, or has keys of other names.
  void CheckKeys(const std::vector<std::string>& names, const char* expected) const {
    if (!value_.is_object()) Refuse(expected);
    for (const auto& member : value_.items()) {
      const std::string& key = member.key();
      if (std::find(names.begin(), names.end(), key) != names.end()) continue;
      const auto nearest = NearestName(key, names);
      throw UsageError(
          fmt::format("option {} in {} is not known{}: {} may be {}",
                      name_.empty() ? Quoted(key) : fmt::format("{} of '{}'", Quoted(key), name_),
                      path_, nearest ? fmt::format("; did you mean '{}'?", *nearest) : "",
                      name_.empty() ? "options" : "its keys", JoinNames(names)));
    }
  }

 private:
  const std::string& path_;
  std::string name_;
  const Json& value_;
};

void ReadWindow(const Item& item, Mask& mask) {
  constexpr const char* kExpected = "[left, right], each a whole number of 0 or more, or null";
  const std::vector<Item> sides = item.List(kExpected);
  if (sides.size() != 2) item.Refuse(kExpected);
  const auto reach = [](const Item& side) -> std::optional<int64_t> {
    if (side.is_null()) return std::nullopt;
    return side.Whole(0, kFarthest, "a whole number from 0 to 2^60, or null for no limit");
  };
  mask.window_left = reach(sides[0]);
  mask.window_right = reach(sides[1]);
}

void ReadSlopes(const Item& item, WholeAttention& whole) {
  const int64_t heads = whole.inputs.query.shape[2];
  const std::string expected = fmt::format("a list of {} numbers, one a head of q", heads);
  const std::vector<Item> slopes = item.List(expected.c_str());
  if (std::ssize(slopes) != heads) item.Refuse(expected);
  whole.alibi_slopes.clear();
  for (const Item& slope : slopes) {
    whole.alibi_slopes.push_back(static_cast<float>(
        slope.Number([](double value) { return std::abs(value) <= kLargestFloat; },
                     "a number that f32 holds, up to 3.4e38")));
  }
}

void ReadDropout(const Item& item, Dropout& dropout) {
  constexpr const char* kExpected = "an object such as {\"p\": 0.1, \"seed\": 7}";
  item.CheckKeys({"p", "seed"}, kExpected);
  dropout.probability =
      item.Needed("p", kExpected)
          .Number([](double p) { return p >= 0 && p < 1; }, "a number of 0 or more and below 1");
  if (const auto seed = item.Member("seed")) dropout.seed = seed->Seed();
}

MaskSlice ReadSlice(const Item& item, const WholeAttention& whole) {
  constexpr const char* kExpected =
      "an object such as {\"q\": [0, 8], \"k\": [0, 8], \"type\": \"causal\"}";
  item.CheckKeys({"head", "q", "k", "type"}, kExpected);
  MaskSlice slice;
  if (const auto head = item.Member("head")) {
    const int64_t last = whole.inputs.query.shape[2] - 1;
    slice.head = head->Whole(0, last, fmt::format("a head of q, from 0 to {}", last));
  }
  const auto [q_begin, q_end] = item.Needed("q", kExpected).IndexRange(whole.inputs.query.shape[1]);
  const auto [k_begin, k_end] = item.Needed("k", kExpected).IndexRange(whole.inputs.key.shape[1]);
  slice.q_begin = q_begin + whole.query_offset;
  slice.q_end = q_end + whole.query_offset;
  slice.k_begin = k_begin;
  slice.k_end = k_end;
  constexpr SliceKind kKinds[] = {SliceKind::kFull, SliceKind::kCausal, SliceKind::kInverseCausal,
                                  SliceKind::kBoth};
  slice.kind =
      kKinds[item.Needed("type", kExpected).OneOf({"full", "causal", "inverse_causal", "both"})];
  return slice;
}

void ReadSlices(const Item& item, WholeAttention& whole) {
  auto slices = std::make_shared<std::vector<MaskSlice>>();
  for (const Item& slice : item.List("a list of slices; [] shows nothing")) {
    slices->push_back(ReadSlice(slice, whole));
  }
  whole.mask.slices = std::move(slices);
}

void ReadNumbers(const Item& options, WholeAttention& whole) {
  if (const auto item = options.Member("scale")) {
    whole.scale = item->Number([](double value) { return std::abs(value) <= kLargestFloat; },
                               "a number that f32 holds, up to 3.4e38");
  }
  if (const auto item = options.Member("query_offset")) {
    whole.query_offset = item->Whole(-kFarthest, kFarthest, "a whole number from -2^60 to 2^60");
  }
  if (const auto item = options.Member("softcap")) {
    whole.softcap = item->Number([](double value) { return value == 0 || IsNormalFloat(value); },
                                 "a number from 1.2e-38 to 3.4e38, or 0 for none");
  }
}

}  // namespace

void ReadAttentionOptions(const std::string& path, WholeAttention& whole, AttentionDumps& dumps) {
  const Json json = ParseOptions(path);
  const Item options(path, "", json);
  options.CheckKeys({"scale", "causal", "query_offset", "window", "causal_block", "softcap",
                     "alibi_slopes", "dropout", "slices", "dump_dropout_mask", "dump_stats"},
                    "an object");
  ReadNumbers(options, whole);  // slices need the query offset
  if (const auto item = options.Member("causal")) whole.mask.causal = item->YesOrNo();
  if (const auto item = options.Member("window")) ReadWindow(*item, whole.mask);
  if (const auto item = options.Member("causal_block")) {
    whole.mask.causal_block =
        item->Whole(0, kFarthest, "a whole number from 1 to 2^60, or 0 for none");
  }
  if (const auto item = options.Member("alibi_slopes")) ReadSlopes(*item, whole);
  if (const auto item = options.Member("dropout")) ReadDropout(*item, whole.dropout);
  if (const auto item = options.Member("slices")) ReadSlices(*item, whole);
  if (const auto item = options.Member("dump_dropout_mask")) dumps.dropout_mask = item->YesOrNo();
  if (const auto item = options.Member("dump_stats")) dumps.stats = item->YesOrNo();
}

}  // namespace ringwise
