#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ringwise {

struct TextFile {
  std::string path;
  std::string name;  // relative to the folder it was found in: the same wherever that folder lies
  int64_t bytes = 0;
  uint64_t sample_hash = 0;  // of its first 8 KiB, and of 4 KiB in its middle and at its end
};

struct FileList {
  std::vector<TextFile> files;  // not empty, not binary
  int64_t binary_skipped = 0;
  int64_t unreadable_skipped = 0;
};

// The files under `paths` (files and folders), folders recursively and in name order. Symbolic
// links are followed; a file or folder reached twice counts once. Binary: a zero byte in the first
// 8 KiB. Throws FileError: a path that does not exist, or is neither file nor folder. Files inside
// a folder that cannot be read are skipped and counted; special files and broken links are skipped.
FileList ListTextFiles(const std::vector<std::string>& paths);

}  // namespace ringwise
