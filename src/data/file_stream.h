#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "formats/file_io.h"
#include "ringwise/corpus.h"

namespace ringwise {

// Files mapped when they are first read, the least recently used of them unmapped: a corpus may
// have more files than a process may hold open. Thread-safe.
class MapCache {
 public:
  explicit MapCache(size_t capacity) : capacity_(capacity) {}
  std::shared_ptr<const MappedFile> Get(const std::string& path);

 private:
  using Entry = std::pair<const std::string*, std::shared_ptr<const MappedFile>>;
  size_t capacity_;
  std::mutex mutex_;
  std::list<Entry> recent_;  // most recent first; keys point into by_path_
  std::unordered_map<std::string, std::list<Entry>::iterator> by_path_;
};

// A part of a file that is one document.
struct Document {
  std::string path;
  int64_t begin = 0;
  int64_t bytes = 0;
};

// The documents in the given order, a separator after each.
class FileTokenStream : public TokenStream {
 public:
  FileTokenStream(std::vector<Document> documents, std::shared_ptr<MapCache> maps);

  int64_t tokens() const override { return begins_.back(); }
  int64_t documents() const override { return static_cast<int64_t>(documents_.size()); }
  void Read(int64_t begin, int64_t stride, std::span<int32_t> out) const override;
  int64_t DocumentBegin(int64_t index) const override;

 private:
  std::vector<Document> documents_;
  std::vector<int64_t> begins_;  // token where each document begins, and the end of the last
  std::shared_ptr<MapCache> maps_;
};

}  // namespace ringwise
