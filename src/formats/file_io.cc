#include "formats/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/file_writer.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

std::string SystemReason(int error) { return std::system_category().message(error); }

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // Non-blocking, or a named pipe would hang here until someone writes to it.
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0)
    throw FileError(fmt::format("{}: cannot open: {}", path, SystemReason(errno)));
  struct stat status {};
  const char* problem = nullptr;
  std::string reason;
  if (fstat(descriptor_, &status) != 0) {
    problem = "cannot examine";
    reason = SystemReason(errno);
  } else if (!S_ISREG(status.st_mode)) {
    problem = "cannot read";
    reason = S_ISDIR(status.st_mode) ? "it is a folder, expected a file" : "not a regular file";
  } else if (status.st_size > 0) {
    size_ = static_cast<size_t>(status.st_size);
    void* map = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
    if (map == MAP_FAILED) {
      problem = "cannot map";
      reason = SystemReason(errno);
    } else {
      data_ = static_cast<const std::byte*>(map);
    }
  }
  if (problem != nullptr) {
    close(descriptor_);
    throw FileError(fmt::format("{}: {}: {}", path, problem, reason));
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
  close(descriptor_);
}

void MappedFile::CheckNotShrunk() const {
  struct stat status {};
  if (fstat(descriptor_, &status) != 0 || static_cast<size_t>(status.st_size) < size_) {
    throw FileError(fmt::format("{}: shrank from {} to {} bytes while in use; start again", path_,
                                size_, status.st_size));
  }
}

std::string ReadTextFile(const std::string& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void WriteTextFile(const std::string& path, std::string_view text) {
  FileWriter writer(path);
  writer.Write(std::as_bytes(std::span(text)));
  writer.Finish();
}

void FlushFolder(const std::string& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool flushed = descriptor >= 0 && (fsync(descriptor) == 0 || errno == EINVAL);
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (!flushed) throw FileError(fmt::format("{}: cannot write: {}", folder, SystemReason(error)));
}

std::string Quoted(std::string_view text) {
  constexpr size_t kLongest = 80;
  std::string result = "'";
  for (const char character : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte >= 0x20 && byte < 0x7f) {
      result += character;
    } else {
      result += fmt::format("\\x{:02x}", byte);
    }
  }
  return result + (text.size() > kLongest ? "...'" : "'");
}

}  // namespace ringwise
