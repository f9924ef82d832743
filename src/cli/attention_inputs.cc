#include "cli/attention_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "cli/flags.h"
#include "formats/file_io.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

using Names = std::vector<std::string>;

const Names& KnownTensors() {
  static const Names names = {
      "q", "k", "v", "bias", "sinks", "q_segment_ids", "dout", "dlogsumexp", "k_segment_ids"};
  return names;
}

std::string Joined(const std::vector<int64_t>& extents, const char* separator = ", ") {
  std::vector<std::string> texts;
  texts.reserve(extents.size());
  for (const int64_t extent : extents) texts.push_back(std::to_string(extent));
  return JoinNames(texts, separator);
}

// What a tensor may be: the values each extent may have, and what they are called.
struct Expected {
  std::vector<std::vector<int64_t>> extents;
  const char* called;
};

void CheckShape(const std::string& name, const SafetensorsEntry& entry, const Expected& expected) {
  bool right = entry.shape.size() == expected.extents.size();
  std::vector<std::string> text;
  for (size_t axis = 0; axis < expected.extents.size(); ++axis) {
    std::vector<int64_t> may = expected.extents[axis];
    may.erase(std::unique(may.begin(), may.end()), may.end());
    text.push_back(Joined(may, " or "));
    right = right && std::find(may.begin(), may.end(), entry.shape[axis]) != may.end();
  }
  if (right) return;
  throw ShapeError(fmt::format("tensor '{}' must be [{}] ({}), found [{}]", name, JoinNames(text),
                               expected.called, Joined(entry.shape)));
}

void CheckType(const std::string& name, const SafetensorsEntry& entry, const Names& types) {
  if (std::find(types.begin(), types.end(), entry.dtype) != types.end()) return;
  throw ShapeError(
      fmt::format("tensor '{}' must be {}, found {}", name, JoinNames(types, " or "), entry.dtype));
}

// Work grows with every extent, and a tensor without elements can claim any in a small file: one
// may be empty for its length alone, and its other extents then stay small.
void CheckExtents(const std::string& name, const std::vector<int64_t>& shape) {
  if (shape.size() != 4) {
    throw ShapeError(fmt::format("tensor '{}' must be [batch, length, heads, head_dim], found [{}]",
                                 name, Joined(shape)));
  }
  constexpr double kMostOfEmpty = 1 << 24;
  double row = 1;
  for (const size_t axis : {0, 2, 3}) row *= static_cast<double>(shape[axis]);
  if (row == 0 || (shape[1] == 0 && row > kMostOfEmpty)) {
    throw ShapeError(
        fmt::format("tensor '{}' [{}]: batch, heads and head_dim must be 1 or more, and their "
                    "product at most 2^24 where the length is 0",
                    name, Joined(shape)));
  }
}

DType DTypeOf(const SafetensorsEntry& entry) {
  return entry.dtype == "F32" ? DType::kF32 : DType::kBF16;
}

Shape ToShape(const std::vector<int64_t>& extents) {
  switch (extents.size()) {
    case 1:
      return {extents[0]};
    case 3:
      return {extents[0], extents[1], extents[2]};
    default:
      return {extents[0], extents[1], extents[2], extents[3]};
  }
}

// A tensor of F32 or BF16, in type `dtype`. The file's bytes need not be aligned.
Tensor Load(MemoryMeter& meter, const SafetensorsEntry& entry, DType dtype) {
  Tensor tensor(meter, MemoryCategory::kActivations, dtype, ToShape(entry.shape));
  DispatchDType(DTypeOf(entry), [&]<class From>(From) {
    DispatchDType(dtype, [&]<class To>(To) {
      for (int64_t i = 0; i < tensor.elements(); ++i) {
        From element;
        std::memcpy(&element, entry.bytes.data() + i * sizeof(From), sizeof(From));
        tensor.data<To>()[i] = To(static_cast<float>(element));
      }
    });
  });
  return tensor;
}

std::vector<int32_t> LoadIds(const SafetensorsEntry& entry) {
  std::vector<int32_t> ids(entry.bytes.size() / sizeof(int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), entry.bytes.data(), entry.bytes.size());
  return ids;
}

void CheckNames(const std::string& path, const SafetensorsFile& file) {
  for (const auto& [name, entry] : file.entries()) {
    const Names& known = KnownTensors();
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const auto nearest = NearestName(name, known);
    throw ShapeError(fmt::format(
        "tensor {} in {} is not known{}: expected q, k, v and perhaps "
        "bias, sinks, q_segment_ids with k_segment_ids, dout, dlogsumexp",
        Quoted(name), path, nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
  }
  for (const char* name : {"q", "k", "v"}) file.at(name);
  const auto need = [&](const char* name, const char* other, const char* why) {
    if (!file.entries().contains(name) || file.entries().contains(other)) return;
    throw ShapeError(fmt::format("tensor '{}' in {} is without '{}': {}", name, path, other, why));
  };
  need("q_segment_ids", "k_segment_ids", "give both, or neither");
  need("k_segment_ids", "q_segment_ids", "give both, or neither");
  need("dlogsumexp", "dout", "gradients are computed where both, or dout alone, are given");
}

}  // namespace

AttentionTensors::AttentionTensors(const std::string& path, std::optional<DType> dtype) {
  const SafetensorsFile file(path);
  CheckNames(path, file);
  const SafetensorsEntry& query = file.at("q");
  CheckType("q", query, {"F32", "BF16"});
  for (const char* name : {"k", "v", "dout"}) {
    const auto found = file.entries().find(name);
    if (found == file.entries().end() || found->second.dtype == query.dtype) continue;
    throw ShapeError(fmt::format("tensor '{}' is {}, but 'q' is {}: all must have one type", name,
                                 found->second.dtype, query.dtype));
  }
  const DType type = dtype.value_or(DTypeOf(query));
  ReadQueryKeyValue(file, type);
  ReadOptional(file, type);
}

void AttentionTensors::ReadQueryKeyValue(const SafetensorsFile& file, DType dtype) {
  const SafetensorsEntry& q = file.at("q");
  const SafetensorsEntry& k = file.at("k");
  const SafetensorsEntry& v = file.at("v");
  CheckExtents("q", q.shape);
  CheckExtents("k", k.shape);
  CheckExtents("v", v.shape);
  extents_ = {q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3]};
  const auto& [batch, q_len, k_len, heads, kv_heads, head_dim, value_dim] = extents_;
  CheckShape("k", k, {{{batch}, {k_len}, {kv_heads}, {head_dim}}, "batch and head_dim of q"});
  CheckShape("v", v,
             {{{batch}, {k_len}, {kv_heads}, {value_dim}}, "batch, k_len and kv_heads of k"});
  if (heads % kv_heads != 0) {
    throw ShapeError(fmt::format("tensor 'k' has {} heads, which do not divide the {} heads of q",
                                 kv_heads, heads));
  }
  for (const auto& [name, what, dim] :
       {std::tuple{"q", "head_dim", head_dim}, std::tuple{"v", "value_dim", value_dim}}) {
    if (dim <= 256) continue;
    throw ShapeError(fmt::format("tensor '{}': {} must be 1 to 256, found {}", name, what, dim));
  }
  query_ = Load(meter_, q, dtype);
  key_ = Load(meter_, k, dtype);
  value_ = Load(meter_, v, dtype);
}

void AttentionTensors::ReadOptional(const SafetensorsFile& file, DType dtype) {
  const auto& [batch, q_len, k_len, heads, kv_heads, head_dim, value_dim] = extents_;
  // The tensor, if there is one, found to be of one of the types and as expected.
  const auto find = [&](const char* name, const Names& types,
                        const Expected& expected) -> const SafetensorsEntry* {
    const auto found = file.entries().find(name);
    if (found == file.entries().end()) return nullptr;
    CheckType(name, found->second, types);
    CheckShape(name, found->second, expected);
    return &found->second;
  };
  if (const auto* bias = find("bias", {"F32"},
                              {{{1, batch}, {1, heads}, {1, q_len}, {k_len}},
                               "1 or batch, 1 or heads, 1 or q_len, k_len"})) {
    bias_ = Load(meter_, *bias, DType::kF32);
  }
  if (const auto* sinks = find("sinks", {"F32"}, {{{heads}}, "heads of q"})) {
    sinks_ = Load(meter_, *sinks, DType::kF32);
  }
  if (const auto* ids = find("q_segment_ids", {"I32"}, {{{batch}, {q_len}}, "batch, q_len"})) {
    query_ids_ = LoadIds(*ids);
    has_ids_ = true;
  }
  if (const auto* ids = find("k_segment_ids", {"I32"}, {{{batch}, {k_len}}, "batch, k_len"})) {
    key_ids_ = LoadIds(*ids);
  }
  if (const auto* dout = find("dout", {"F32", "BF16"},
                              {{{batch}, {q_len}, {heads}, {value_dim}}, "as the output"})) {
    output_gradient_ = Load(meter_, *dout, dtype);
  }
  if (const auto* dlogsumexp = find("dlogsumexp", {"F32", "BF16"},
                                    {{{batch}, {heads}, {q_len}}, "batch, heads, q_len"})) {
    logsumexp_gradient_ = Load(meter_, *dlogsumexp, DType::kF32);
  }
}

void AttentionTensors::SetTensors(WholeAttention& whole) const {
  whole.query_offset = extents_.k_len - extents_.q_len;
  whole.inputs = {query_.view(), key_.view(), value_.view()};
  const auto set = [](const std::optional<Tensor>& tensor, std::optional<ConstTensorView>& view) {
    if (tensor) view = tensor->view();
  };
  set(bias_, whole.bias);
  set(sinks_, whole.sinks);
  set(output_gradient_, whole.output_gradient);
  set(logsumexp_gradient_, whole.logsumexp_gradient);
}

void AttentionTensors::SetSegments(WholeAttention& whole) const {
  if (!has_ids_) return;
  const auto segments_of = [&](const std::vector<int32_t>& ids, int64_t length, int64_t first) {
    std::vector<Segments> segments;
    for (int64_t b = 0; b < extents_.batch; ++b) {
      const auto of_sequence = std::span(ids).subspan(b * length, length);
      segments.push_back(ToSegments(of_sequence, first));
    }
    return segments;
  };
  whole.mask.segments =
      std::make_shared<SegmentMap>(segments_of(query_ids_, extents_.q_len, whole.query_offset),
                                   segments_of(key_ids_, extents_.k_len, 0));
}

}  // namespace ringwise
