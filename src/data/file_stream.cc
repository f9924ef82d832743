#include "data/file_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "ringwise/error.h"

namespace ringwise {

std::shared_ptr<const MappedFile> MapCache::Get(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto found = by_path_.find(path);
  if (found != by_path_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second);
    return found->second->second;
  }
  auto file = std::make_shared<const MappedFile>(path);
  const auto added = by_path_.emplace(path, recent_.end()).first;
  recent_.emplace_front(&added->first, file);
  added->second = recent_.begin();
  if (recent_.size() > capacity_) {
    by_path_.erase(by_path_.find(*recent_.back().first));
    recent_.pop_back();  // readers that still hold the map keep it alive
  }
  return file;
}

FileTokenStream::FileTokenStream(std::vector<Document> documents, std::shared_ptr<MapCache> maps)
    : documents_(std::move(documents)), maps_(std::move(maps)) {
  begins_.reserve(documents_.size() + 1);
  begins_.push_back(0);
  for (const Document& document : documents_) {
    begins_.push_back(begins_.back() + document.bytes + 1);
  }
}

int64_t FileTokenStream::DocumentBegin(int64_t index) const {
  assert(index >= 0 && index <= documents());
  return begins_[static_cast<size_t>(index)];
}

void FileTokenStream::Read(int64_t begin, int64_t stride, std::span<int32_t> out) const {
  if (out.empty()) return;
  const auto count = static_cast<int64_t>(out.size());
  assert(stride >= 1 && begin >= 0 && begin + (count - 1) * stride < tokens());
  auto next = std::upper_bound(begins_.begin(), begins_.end(), begin);
  for (int64_t i = 0; i < count;) {
    while (*next <= begin + i * stride) ++next;
    const Document& document = documents_[static_cast<size_t>(next - begins_.begin() - 1)];
    const int64_t first = *(next - 1);
    const auto file = maps_->Get(document.path);
    if (static_cast<int64_t>(file->bytes().size()) < document.begin + document.bytes) {
      throw FileError(fmt::format("{}: shrank to {} bytes since it was listed; start again",
                                  document.path, file->bytes().size()));
    }
    file->CheckNotShrunk();
    const std::byte* bytes = file->bytes().data() + document.begin;
    for (; i < count && begin + i * stride < *next; ++i) {
      const int64_t at = begin + i * stride - first;
      out[static_cast<size_t>(i)] =
          at == document.bytes ? kSeparatorToken : std::to_integer<int32_t>(bytes[at]);
    }
  }
}

}  // namespace ringwise
