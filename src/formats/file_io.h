#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ringwise {

// A regular file mapped for reading. Empty files are legal. Throws FileError: missing, a folder,
// unreadable; the message names the path and the system's reason.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Throws FileError if the file is now shorter than what is mapped: touching the missing pages
  // would kill the process.
  void CheckNotShrunk() const;

 private:
  std::string path_;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Whole small files at once. Throw FileError.
std::string ReadTextFile(const std::string& path);
void WriteTextFile(const std::string& path, std::string_view text);  // flushed to the disk

// Flushes a folder's list of files to the disk, so that files made in it survive a crash.
void FlushFolder(const std::string& folder);

// `text`, which may come from a hostile file, for a message of one line: in quotes, control
// characters and bytes that are not ASCII escaped, cut after 80 characters.
std::string Quoted(std::string_view text);

}  // namespace ringwise
