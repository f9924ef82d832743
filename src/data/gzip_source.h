#pragma once

#include <archive.h>
#include <zlib.h>

#include <string>
#include <vector>

namespace ringwise {

// What a gzip file holds, for libarchive to read: its own filter does not compare the checksum at
// the end, and damaged data would pass.
class GzipSource {
 public:
  explicit GzipSource(const std::string& path);
  ~GzipSource();
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  bool is_gzip() const { return file_ != nullptr; }
  // libarchive's archive_read_callback; `source` is a GzipSource.
  static la_ssize_t Read(archive* reader, void* source, const void** block);

 private:
  gzFile file_ = nullptr;
  std::vector<char> block_;
};

}  // namespace ringwise
