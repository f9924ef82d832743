#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <system_error>

#include "data/gzip_source.h"
#include "formats/file_io.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;
using Wants = std::function<bool(std::string_view)>;
using Take = std::function<void(std::string_view, std::string&&)>;

struct FreeArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

void ReadFolder(const std::string& path, const Wants& wants, const Take& take) {
  std::vector<std::string> names;
  std::error_code error;
  fs::recursive_directory_iterator entry(path, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().lexically_relative(path).generic_string();
    std::error_code ignored;  // a broken link is no regular file
    if (wants(name) && entry->is_regular_file(ignored)) names.push_back(std::move(name));
  }
  if (error) throw FileError(fmt::format("{}: cannot read: {}", path, error.message()));
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) take(name, ReadTextFile((fs::path(path) / name).string()));
}

class ArchiveReader {
 public:
  explicit ArchiveReader(const std::string& path)
      : path_(path), gzip_(path), reader_(archive_read_new()) {
    if (reader_ == nullptr) throw FileError(path + ": no memory to read an archive");
    archive_read_support_filter_all(reader_.get());
    archive_read_support_format_tar(reader_.get());
    archive_read_support_format_zip(reader_.get());
    // To the end of the file, for the checksum of all may stand there.
    archive_read_set_option(reader_.get(), "tar", "read_concatenated_archives", "1");
    if (gzip_.is_gzip()) {
      Check(archive_read_open(reader_.get(), &gzip_, nullptr, GzipSource::Read, nullptr));
    } else {
      constexpr size_t kBlock = size_t{1} << 18;
      Check(archive_read_open_filename(reader_.get(), path.c_str(), kBlock));
    }
  }

  // Of the next regular file; null at the end.
  const char* Next() {
    archive_entry* entry = nullptr;
    while (true) {
      const int result = archive_read_next_header(reader_.get(), &entry);
      if (result == ARCHIVE_EOF) return nullptr;
      Check(result);
      known_ = true;
      const char* name = archive_entry_pathname(entry);  // null: not of this locale's letters
      if (name != nullptr && archive_entry_filetype(entry) == AE_IFREG) return name;
    }
  }

  std::string Bytes() {
    std::string bytes;
    std::array<char, 1 << 16> part;
    while (true) {
      const la_ssize_t count = archive_read_data(reader_.get(), part.data(), part.size());
      if (count == 0) return bytes;
      if (count < 0) Fail();  // a wrong checksum in a zip is but a warning
      bytes.append(part.data(), static_cast<size_t>(count));
    }
  }

 private:
  void Check(int result) const {
    if (result < ARCHIVE_WARN) Fail();  // a warning is about a file's owner or the like
  }

  [[noreturn]] void Fail() const {
    const char* text = archive_error_string(reader_.get());
    const std::string reason = text != nullptr ? text : "unknown error";
    if (!known_) {
      throw FileError(
          fmt::format("{}: not an archive that can be read ({}); expected tar, with any usual "
                      "compression, or zip",
                      path_, reason));
    }
    throw FileError(fmt::format("{}: the archive is truncated or corrupt ({}); download it again",
                                path_, reason));
  }

  std::string path_;
  GzipSource gzip_;
  std::unique_ptr<archive, FreeArchive> reader_;
  bool known_ = false;  // a first header made sense
};

}  // namespace

void ReadFiles(const std::string& path, const Wants& wants, const Take& take) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw FileError(fmt::format("{}: cannot read: {}", path, error.message()));
  }
  if (fs::is_directory(status)) {
    ReadFolder(path, wants, take);
    return;
  }
  if (!fs::is_regular_file(status)) {
    throw FileError(path + ": neither a file nor a folder");  // a named pipe would hang here
  }
  ArchiveReader reader(path);
  while (const char* found = reader.Next()) {
    std::string_view name = found;
    while (name.starts_with("./")) name.remove_prefix(2);
    if (wants(name)) take(name, reader.Bytes());
  }
}

}  // namespace ringwise
