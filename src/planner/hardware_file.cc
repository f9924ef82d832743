#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "formats/file_io.h"
#include "formats/keys_once.h"
#include "ringwise/error.h"
#include "ringwise/planner.h"

namespace ringwise {
namespace {

using Json = nlohmann::ordered_json;

// Of one object of the file, with errors that name the file and the whole field.
class Fields {
 public:
  Fields(const std::string& path, std::string prefix, const Json& json)
      : path_(path), prefix_(std::move(prefix)), json_(json) {
    if (!json.is_object()) Fail(prefix_.empty() ? "the file" : prefix_, "must be a JSON object");
  }

  void AllowOnly(std::initializer_list<const char*> known) const {
    std::string names;
    for (const char* name : known) names += (names.empty() ? "" : ", ") + std::string(name);
    for (const auto& [name, value] : json_.items()) {
      if (std::ranges::find(known, name) != known.end()) continue;
      Fail(Full(Quoted(name)), "is unknown; known here: " + names);
    }
  }

  bool Has(const char* name) const { return json_.contains(name); }
  Fields Object(const char* name) const {
    Require(name);
    return {path_, Full(name), json_.at(name)};
  }
  double Number(const char* name) const {
    Require(name);
    const Json& value = json_.at(name);
    if (!value.is_number()) Fail(Full(name), "must be a number");
    return value.get<double>();
  }
  double Positive(const char* name) const {
    const double number = Number(name);
    if (!(number > 0)) Fail(Full(name), "must be above 0");
    return number;
  }
  double Number(const char* name, double absent) const { return Has(name) ? Number(name) : absent; }
  std::string Text(const char* name, const std::string& absent) const {
    if (!Has(name)) return absent;
    if (!json_.at(name).is_string()) Fail(Full(name), "must be a text");
    return json_.at(name).get<std::string>();
  }

 private:
  void Require(const char* name) const {
    if (!Has(name)) Fail(Full(name), "is missing");
  }
  std::string Full(const std::string& name) const {
    return prefix_.empty() ? name : prefix_ + "." + name;
  }
  [[noreturn]] void Fail(const std::string& field, const std::string& what) const {
    throw FileError(path_ + ": " + field + " " + what);
  }

  const std::string& path_;
  std::string prefix_;
  const Json& json_;
};

ComputeRate ReadRate(const Fields& file, const char* dtype) {
  if (!file.Has(dtype)) return {};
  const Fields fields = file.Object(dtype);
  fields.AllowOnly({"products", "attention_forward", "attention_backward", "row_seconds"});
  ComputeRate rate;
  rate.products = fields.Positive("products");
  rate.attention_forward = fields.Number("attention_forward", rate.products);
  rate.attention_backward = fields.Number("attention_backward", rate.products);
  rate.row_seconds = fields.Number("row_seconds", 0);
  return rate;
}

Json Parse(const std::string& path) {
  KeysOnce<Json> keys;
  const auto once = [&](int, Json::parse_event_t event, Json& parsed) {
    if (const auto key = keys.Twice(event, parsed)) {
      throw FileError(path + ": " + *key + " is there twice");
    }
    return true;
  };
  try {
    return Json::parse(ReadTextFile(path), once);
  } catch (const Json::out_of_range&) {
    throw FileError(path + ": a number is too large");
  } catch (const Json::exception&) {
    throw FileError(path + ": not JSON; expected a description of hardware, see docs/planning.md");
  }
}

Json RateToJson(const ComputeRate& rate) {
  return {{"products", rate.products},
          {"attention_forward", rate.attention_forward},
          {"attention_backward", rate.attention_backward},
          {"row_seconds", rate.row_seconds}};
}

}  // namespace

Hardware ReadHardware(const std::string& path) {
  const Json json = Parse(path);
  const Fields file(path, "", json);
  file.AllowOnly({"name", "f32", "bf16", "link", "memory_bytes", "note"});
  const Fields link = file.Object("link");
  link.AllowOnly({"bytes_per_second", "delay_seconds", "call_seconds"});
  Hardware hardware{.name = file.Text("name", path),
                    .f32 = ReadRate(file, "f32"),
                    .bf16 = ReadRate(file, "bf16"),
                    .link_bytes_per_second = link.Number("bytes_per_second"),
                    .link_delay = link.Number("delay_seconds", 0),
                    .call_seconds = link.Number("call_seconds", 0),
                    .memory_bytes = file.Number("memory_bytes"),
                    .note = file.Text("note", "")};
  try {
    Validate(hardware);
  } catch (const UsageError& error) {
    throw FileError(path + ": " + error.what());
  }
  return hardware;
}

std::string FormatHardware(const Hardware& hardware) {
  Json json = {{"name", hardware.name}};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const ComputeRate& rate = hardware.rate(dtype);
    if (rate.products > 0) json[std::string(Name(dtype))] = RateToJson(rate);
  }
  json["link"] = {{"bytes_per_second", hardware.link_bytes_per_second},
                  {"delay_seconds", hardware.link_delay},
                  {"call_seconds", hardware.call_seconds}};
  json["memory_bytes"] = hardware.memory_bytes;
  if (!hardware.note.empty()) json["note"] = hardware.note;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ringwise
