#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace ringwise {

// A tensor in a safetensors file: dtype by its name there ("F32", "BF16", "I32", "U8", ...).
struct SafetensorsEntry {
  std::string dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // little-endian, rows in order
};

// A safetensors file, memory-mapped: opening costs the header alone. The spans live as long as
// this. Throws FileError: missing, truncated, header corrupt, offsets overlapping or outside the
// file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;

  const std::map<std::string, SafetensorsEntry>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  // The entry; throws FileError naming the file and the names it holds.
  const SafetensorsEntry& at(const std::string& name) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct NamedBytes {
  std::string name;
  SafetensorsEntry entry;
};
// Writes the tensors in the given order, then flushes them to the disk. Not atomic by itself.
// Throws FileError with the system's reason (no space left, ...).
void WriteSafetensors(const std::string& path, std::span<const NamedBytes> tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace ringwise
