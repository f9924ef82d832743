#include "ringwise/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "core/file_writer.h"
#include "formats/file_io.h"
#include "formats/keys_once.h"
#include "ringwise/error.h"

// The format: 8 bytes of header length (little-endian), the header in JSON, then the tensors'
// bytes. The header maps a name to {"dtype", "shape", "data_offsets": [begin, end)}, offsets
// counted from the end of the header; the tensors tile the rest of the file without overlap or
// hole.
namespace ringwise {
namespace {

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kLongestHeader = 100'000'000;  // the format's own limit
constexpr std::string_view kMetadata = "__metadata__";

// Bytes of an element, 0 if the type is unknown.
int64_t ElementBytes(std::string_view dtype) {
  static constexpr std::pair<std::string_view, int64_t> kTypes[] = {
      {"F32", 4},     {"BF16", 2},    {"F16", 2},     {"F64", 8}, {"I64", 8}, {"I32", 4},
      {"I16", 2},     {"I8", 1},      {"U8", 1},      {"U16", 2}, {"U32", 4}, {"U64", 8},
      {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"C64", 8}, {"BOOL", 1}};
  for (const auto& [name, bytes] : kTypes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

// Product of the extents and the element's size; nothing if an extent is negative or it overflows.
std::optional<int64_t> TensorBytes(int64_t element_bytes, const std::vector<int64_t>& shape) {
  int64_t bytes = element_bytes;
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

// Parses the header, refusing what a JSON reader would let pass: the same key twice, or nesting
// deeper than the format has.
Json ParseHeader(const std::string& path, std::string_view text) {
  KeysOnce<Json> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    constexpr int kDeepest = 4;
    if (depth > kDeepest) throw FileError(path + ": corrupt safetensors header: nested too deeply");
    if (const auto key = keys.Twice(event, parsed)) {
      throw FileError(
          fmt::format("{}: corrupt safetensors header: {} appears twice", path, Quoted(*key)));
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const Json::parse_error& error) {
    throw FileError(fmt::format(
        "{}: corrupt safetensors header: not JSON at byte {}; is it a safetensors file?", path,
        error.byte + kLengthBytes));
  } catch (const Json::exception&) {
    throw FileError(path + ": corrupt safetensors header: a number out of range");
  }
}

// A list of non-negative 63-bit integers, or nothing.
std::optional<std::vector<int64_t>> ReadExtents(const Json& list) {
  if (!list.is_array()) return std::nullopt;
  std::vector<int64_t> result;
  for (const Json& item : list) {
    if (!item.is_number_unsigned()) return std::nullopt;
    const auto value = item.get<uint64_t>();
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    result.push_back(static_cast<int64_t>(value));
  }
  return result;
}

SafetensorsEntry ReadEntry(const std::string& path, const std::string& name, const Json& entry,
                           std::span<const std::byte> data) {
  const auto fail = [&](const std::string& what) {
    throw FileError(fmt::format("{}: tensor {}: {}", path, Quoted(name), what));
  };
  if (!entry.is_object()) fail("expected an object in the header");
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) fail("no dtype in the header");
  const auto shape_item = entry.find("shape");
  const auto offsets_item = entry.find("data_offsets");
  const auto shape = shape_item == entry.end() ? std::nullopt : ReadExtents(*shape_item);
  if (!shape) fail("shape is not a list of sizes");
  const auto offsets = offsets_item == entry.end() ? std::nullopt : ReadExtents(*offsets_item);
  if (!offsets || offsets->size() != 2) fail("data_offsets is not [begin, end]");

  SafetensorsEntry result{dtype->get<std::string>(), *shape, {}};
  const int64_t element_bytes = ElementBytes(result.dtype);
  if (element_bytes == 0) fail("unknown dtype " + Quoted(result.dtype));
  const int64_t begin = (*offsets)[0];
  const int64_t end = (*offsets)[1];
  if (begin > end || end > static_cast<int64_t>(data.size())) {
    fail(fmt::format("data_offsets [{}, {}] reach outside the {} bytes of data; truncated file?",
                     begin, end, data.size()));
  }
  const auto bytes = TensorBytes(element_bytes, *shape);
  if (!bytes) fail("shape is too large");
  if (*bytes != end - begin) {
    fail(fmt::format("its dtype and shape need {} bytes, data_offsets give {}", *bytes,
                     end - begin));
  }
  result.bytes = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  return result;
}

void CheckTiling(const std::string& path, const std::map<std::string, SafetensorsEntry>& entries,
                 std::span<const std::byte> data) {
  std::vector<std::pair<const std::byte*, const std::byte*>> ranges;
  ranges.reserve(entries.size());
  for (const auto& [name, entry] : entries) {
    ranges.emplace_back(entry.bytes.data(), entry.bytes.data() + entry.bytes.size());
  }
  std::sort(ranges.begin(), ranges.end());
  const std::byte* end = data.data();
  for (const auto& range : ranges) {
    if (range.first < end) throw FileError(path + ": corrupt: tensors overlap in the file");
    if (range.first > end) throw FileError(path + ": corrupt: bytes that belong to no tensor");
    end = range.second;
  }
  if (end != data.data() + data.size()) {
    throw FileError(path + ": corrupt: bytes after the last tensor");
  }
}

}  // namespace

class SafetensorsFile::Impl {
 public:
  explicit Impl(const std::string& path) : file_(path) {
    const std::span<const std::byte> bytes = file_.bytes();
    uint64_t header_bytes = 0;
    if (bytes.size() < kLengthBytes) {
      throw FileError(fmt::format("{}: not a safetensors file: only {} bytes", path, bytes.size()));
    }
    for (size_t i = 0; i < kLengthBytes; ++i) {
      header_bytes |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
    }
    if (header_bytes > kLongestHeader || header_bytes > bytes.size() - kLengthBytes) {
      throw FileError(fmt::format(
          "{}: truncated or not a safetensors file: a header of {} bytes in a file of {}", path,
          header_bytes, bytes.size()));
    }
    const auto* text = reinterpret_cast<const char*>(bytes.data() + kLengthBytes);
    const Json header = ParseHeader(path, {text, static_cast<size_t>(header_bytes)});
    if (!header.is_object()) {
      throw FileError(path + ": corrupt safetensors header: expected an object");
    }
    const auto data = bytes.subspan(kLengthBytes + header_bytes);
    for (const auto& [name, entry] : header.items()) {
      if (name == kMetadata) {
        ReadMetadata(entry);
      } else {
        entries_.emplace(name, ReadEntry(path, name, entry, data));
      }
    }
    CheckTiling(path, entries_, data);
  }

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  void ReadMetadata(const Json& entry) {
    if (!entry.is_object()) {
      throw FileError(path() + ": corrupt safetensors header: __metadata__ is not an object");
    }
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) {
        throw FileError(fmt::format("{}: corrupt safetensors header: metadata {} is not text",
                                    path(), Quoted(key)));
      }
      metadata_.emplace(key, value.get<std::string>());
    }
  }

  MappedFile file_;
  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

SafetensorsFile::SafetensorsFile(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;

const std::map<std::string, SafetensorsEntry>& SafetensorsFile::entries() const {
  return impl_->entries();
}
const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return impl_->metadata();
}

const SafetensorsEntry& SafetensorsFile::at(const std::string& name) const {
  const auto found = entries().find(name);
  if (found != entries().end()) return found->second;
  constexpr size_t kNamesShown = 8;
  std::string names;
  size_t shown = 0;
  for (const auto& [other, entry] : entries()) {
    if (shown == kNamesShown) {
      names += ", ...";
      break;
    }
    names += (shown++ == 0 ? "" : ", ") + Quoted(other);
  }
  throw FileError(fmt::format("{}: no tensor {}; it holds {}", impl_->path(), Quoted(name),
                              names.empty() ? "none" : names));
}

void WriteSafetensors(const std::string& path, std::span<const NamedBytes> tensors,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[std::string(kMetadata)] = metadata;
  size_t offset = 0;
  for (const NamedBytes& tensor : tensors) {
    const SafetensorsEntry& entry = tensor.entry;
    const int64_t element_bytes = ElementBytes(entry.dtype);
    const auto bytes = TensorBytes(element_bytes, entry.shape);
    if (element_bytes == 0 || !bytes || *bytes != static_cast<int64_t>(entry.bytes.size())) {
      throw ShapeError(
          fmt::format("tensor {} to write to {}: {} bytes do not fit dtype {} and shape",
                      Quoted(tensor.name), path, entry.bytes.size(), Quoted(entry.dtype)));
    }
    if (tensor.name == kMetadata || header.contains(tensor.name)) {
      throw UsageError(fmt::format("tensor name {} to write to {}: reserved, or given twice",
                                   Quoted(tensor.name), path));
    }
    header[tensor.name] = {{"dtype", entry.dtype},
                           {"shape", entry.shape},
                           {"data_offsets", {offset, offset + entry.bytes.size()}}};
    offset += entry.bytes.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw UsageError("a tensor name or metadata to write to " + path + " is not UTF-8");
  }
  // Spaces after the header, so that mapped tensors are aligned.
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');

  std::byte length[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(static_cast<uint64_t>(text.size()) >> (8 * i));
  }
  FileWriter writer(path);
  writer.Write(length);
  writer.Write(std::as_bytes(std::span(text)));
  for (const NamedBytes& tensor : tensors) writer.Write(tensor.entry.bytes);
  writer.Finish();
}

}  // namespace ringwise
