#include "ring/ring_case.h"

#include <fmt/format.h>

#include <charconv>
#include <set>

#include "ringwise/error.h"

namespace ringwise {
namespace {

// Every flag with its field. Case is RingCase or const RingCase.
template <class Case, class Visit>
void ForEachFlag(Case& c, const Visit& visit) {
  visit("--batch", c.batch);
  visit("--heads", c.heads);
  visit("--kv-heads", c.kv_heads);
  visit("--head-dim", c.head_dim);
  visit("--value-dim", c.value_dim);
  visit("--q-len", c.q_len);
  visit("--kv-len", c.kv_len);
  visit("--query-offset", c.query_offset);
  visit("--causal", c.causal);
  visit("--window-left", c.window_left);
  visit("--window-right", c.window_right);
  visit("--causal-block", c.causal_block);
  visit("--documents", c.documents);
  visit("--slices", c.slices);
  visit("--scale", c.scale);
  visit("--softcap", c.softcap);
  visit("--alibi", c.alibi);
  visit("--bias", c.bias);
  visit("--bias-hidden", c.bias_hidden);
  visit("--sinks", c.sinks);
  visit("--dropout", c.dropout);
  visit("--logsumexp-gradient", c.logsumexp_gradient);
  visit("--dtype", c.dtype);
  visit("--ring", c.ring);
  visit("--layout", c.layout);
  visit("--key-layout", c.key_layout);
  visit("--threads", c.threads);
  visit("--seed", c.seed);
}

std::string Text(const std::string& value) { return value; }
std::string Text(bool value) { return value ? "1" : "0"; }
std::string Text(DType value) { return std::string(Name(value)); }
std::string Text(Layout value) { return std::string(Name(value)); }
template <class Number>
std::string Text(const Number& value) {
  return fmt::format("{}", value);
}
template <class T>
std::string Text(const std::optional<T>& value) {
  return value ? Text(*value) : "";
}

template <class Number>
bool Read(const std::string& text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}
bool Read(const std::string& text, std::string& value) {
  value = text;
  return true;
}
bool Read(const std::string& text, bool& value) {
  value = text == "1";
  return value || text == "0";
}
bool Read(const std::string& text, DType& value) {
  value = text == "f32" ? DType::kF32 : DType::kBF16;
  return text == Name(value);
}
bool Read(const std::string& text, Layout& value) {
  value = ParseLayout(text);
  return true;
}
template <class T>
bool Read(const std::string& text, std::optional<T>& value) {
  return Read(text, value.emplace());
}

}  // namespace

std::string RingCase::ToString() const {
  std::map<std::string, std::string> defaults;
  const RingCase unchanged;
  ForEachFlag(unchanged,
              [&](const char* name, const auto& field) { defaults[name] = Text(field); });
  std::string text;
  ForEachFlag(*this, [&](const char* name, const auto& field) {
    const std::string value = Text(field);
    if (value != defaults[name])
      text += fmt::format("{}{} {}", text.empty() ? "" : " ", name, value);
  });
  return text;
}

RingCase ParseRingCase(const std::map<std::string, std::string>& flags) {
  RingCase c;
  std::set<std::string> known;
  ForEachFlag(c, [&](const char* name, auto& field) {
    known.insert(name);
    const auto given = flags.find(name);
    if (given == flags.end()) return;
    if (!Read(given->second, field)) {
      throw UsageError(fmt::format("{}: '{}' is not a value of it", name, given->second));
    }
  });
  for (const auto& [name, value] : flags) {
    if (!known.contains(name)) throw UsageError(fmt::format("{}: no such flag", name));
  }
  return c;
}

}  // namespace ringwise
