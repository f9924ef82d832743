#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace ringwise {

// A regular file or character device written from its start, replacing what was there. Throws
// FileError with the system's reason (no space left, ...), and for a folder or a named pipe.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void Write(std::span<const std::byte> bytes);
  // Flushes to the disk and closes. Without it the file may be incomplete.
  void Finish();

 private:
  std::string path_;
  int descriptor_ = -1;
};

// Throws what FileWriter would throw for this path, and leaves what is there as it is: for results
// that a long computation is still to give.
void CheckWritable(const std::string& path);

}  // namespace ringwise
