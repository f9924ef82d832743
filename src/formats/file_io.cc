#include "formats/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "ringwise/error.h"

namespace ringwise {
namespace {

std::string SystemReason(int error) { return std::system_category().message(error); }

// What is wrong with a descriptor just opened for writing; empty if nothing is, and it then blocks.
std::string WhyNotWritable(int descriptor) {
  constexpr char kNotRegular[] = "not a regular file";
  if (descriptor < 0) return errno == ENXIO ? kNotRegular : SystemReason(errno);
  struct stat status {};
  if (fstat(descriptor, &status) != 0) return SystemReason(errno);
  if (!S_ISREG(status.st_mode) && !S_ISCHR(status.st_mode)) return kNotRegular;
  // A terminal would refuse bytes while busy.
  if (fcntl(descriptor, F_SETFL, 0) != 0) return SystemReason(errno);
  return "";
}

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

FileWriter::FileWriter(const std::string& path) : path_(path) {
  // Non-blocking, or a named pipe would hang here until someone reads from it; without a reader it
  // gives ENXIO instead.
  descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
  const std::string reason = WhyNotWritable(descriptor_);
  if (reason.empty()) return;
  if (descriptor_ >= 0) close(descriptor_);
  throw FileError(fmt::format("{}: cannot write: {}", path, reason));
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) close(descriptor_);
}

void FileWriter::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      throw FileError(fmt::format("{}: cannot write: {}", path_, SystemReason(errno)));
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void FileWriter::Finish() {
  // Devices and some network file systems cannot flush: EINVAL, and nothing is lost.
  const int flushed = fsync(descriptor_) == 0 || errno == EINVAL || errno == EROFS ? 0 : errno;
  const int closed = close(descriptor_) == 0 ? 0 : errno;
  descriptor_ = -1;
  if (flushed != 0 || closed != 0) {
    throw FileError(
        fmt::format("{}: cannot write: {}", path_, SystemReason(flushed != 0 ? flushed : closed)));
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
