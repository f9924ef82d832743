#include "core/file_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "ringwise/error.h"

namespace ringwise {
namespace {

std::string SystemReason(int error) { return std::system_category().message(error); }

[[noreturn]] void ThrowNotWritable(const std::string& path, const std::string& reason) {
  throw FileError(path + ": cannot write: " + reason);
}

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

// A descriptor to write to, never negative. Throws FileError.
int OpenForWriting(const std::string& path, int flags) {
  // Non-blocking, or a named pipe would hang here until someone reads from it; without a reader it
  // gives ENXIO instead.
  const int descriptor = open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK | flags, 0666);
  const std::string reason = WhyNotWritable(descriptor);
  if (reason.empty()) return descriptor;
  if (descriptor >= 0) close(descriptor);
  ThrowNotWritable(path, reason);
}

}  // namespace

FileWriter::FileWriter(const std::string& path)
    : path_(path), descriptor_(OpenForWriting(path, O_CREAT | O_TRUNC)) {}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) close(descriptor_);
}

void FileWriter::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      ThrowNotWritable(path_, SystemReason(errno));
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
    ThrowNotWritable(path_, SystemReason(flushed != 0 ? flushed : closed));
  }
}

void CheckWritable(const std::string& path) {
  struct stat status {};
  const bool is_new = lstat(path.c_str(), &status) != 0;
  close(OpenForWriting(path, O_CREAT));
  if (is_new) unlink(path.c_str());
}

}  // namespace ringwise
