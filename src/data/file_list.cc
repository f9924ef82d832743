#include "data/file_list.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "data/hash_bytes.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;

struct FileSample {
  bool text = false;  // its first bytes look like it
  uint64_t hash = 0;
};

// Nothing if the file cannot be read.
std::optional<FileSample> Sample(const std::string& path, int64_t bytes) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return std::nullopt;
  std::array<char, 8192> head;
  const ssize_t count = read(descriptor, head.data(), head.size());
  if (count < 0) {
    close(descriptor);
    return std::nullopt;
  }
  const std::string_view start(head.data(), static_cast<size_t>(count));
  FileSample sample{.text = start.find('\0') == std::string_view::npos,
                    .hash = HashBytes(start, kEmptyHash)};
  constexpr int64_t kPage = 4096;
  for (const int64_t begin : {bytes / 2, bytes - kPage}) {
    if (!sample.text || begin < static_cast<int64_t>(head.size())) continue;
    std::array<char, kPage> page;
    const ssize_t got = pread(descriptor, page.data(), page.size(), begin);
    if (got > 0) sample.hash = HashBytes({page.data(), static_cast<size_t>(got)}, sample.hash);
  }
  close(descriptor);
  return sample;
}

class Walk {
 public:
  // Throws if `path`, named by the user, cannot be read.
  void AddNamed(const std::string& path) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) {
      throw FileError(
          fmt::format("{}: cannot read: {}", path, std::system_category().message(errno)));
    }
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
      throw FileError(path + ": neither a file nor a folder");
    }
    if (access(path.c_str(), R_OK) != 0) {
      throw FileError(
          fmt::format("{}: cannot read: {}", path, std::system_category().message(errno)));
    }
    Add(path, S_ISDIR(status.st_mode) ? "" : fs::path(path).filename().string(), status);
  }

  FileList Take() { return std::move(list_); }

 private:
  void Add(const std::string& path, const std::string& name, const struct stat& status) {
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return;
    if (!seen_.emplace(status.st_dev, status.st_ino).second) return;
    if (S_ISDIR(status.st_mode)) {
      AddFolder(path, name);
      return;
    }
    if (status.st_size == 0) return;
    const auto bytes = static_cast<int64_t>(status.st_size);
    const std::optional<FileSample> sample = Sample(path, bytes);
    if (!sample) {
      ++list_.unreadable_skipped;
    } else if (!sample->text) {
      ++list_.binary_skipped;
    } else {
      list_.files.push_back({path, name, bytes, sample->hash});
    }
  }

  void AddFolder(const std::string& path, const std::string& name) {
    std::vector<std::string> entries;
    std::error_code error;
    for (fs::directory_iterator entry(path, error), end; !error && entry != end;
         entry.increment(error)) {
      entries.push_back(entry->path().filename().string());
    }
    if (error) {
      ++list_.unreadable_skipped;
      return;
    }
    std::sort(entries.begin(), entries.end());
    for (const std::string& entry : entries) {
      const std::string child = (fs::path(path) / entry).string();
      struct stat status {};
      if (stat(child.c_str(), &status) != 0) continue;  // a broken link, or gone meanwhile
      Add(child, (fs::path(name) / entry).string(), status);
    }
  }

  FileList list_;
  std::set<std::pair<dev_t, ino_t>> seen_;
};

}  // namespace

FileList ListTextFiles(const std::vector<std::string>& paths) {
  Walk walk;
  for (const std::string& path : paths) walk.AddNamed(path);
  return walk.Take();
}

}  // namespace ringwise
