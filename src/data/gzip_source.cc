#include "data/gzip_source.h"

#include <cerrno>

namespace ringwise {

GzipSource::GzipSource(const std::string& path) : file_(gzopen(path.c_str(), "rbe")) {
  if (file_ != nullptr && gzdirect(file_) != 0) {  // zlib would hand out the bytes as they are
    gzclose(file_);
    file_ = nullptr;
  }
  if (file_ != nullptr) block_.resize(size_t{1} << 18);
}

GzipSource::~GzipSource() {
  if (file_ != nullptr) gzclose(file_);
}

la_ssize_t GzipSource::Read(archive* reader, void* source, const void** block) {
  auto& self = *static_cast<GzipSource*>(source);
  *block = self.block_.data();
  const int count =
      gzread(self.file_, self.block_.data(), static_cast<unsigned>(self.block_.size()));
  if (count > 0) return count;
  int error = Z_OK;  // a file that ends too early gives all it has first
  gzerror(self.file_, &error);
  if (error == Z_OK || error == Z_STREAM_END) return 0;
  archive_set_error(reader, EIO, "gzip: %s",
                    error == Z_BUF_ERROR ? "ends too early" : "wrong data or checksum");
  return -1;
}

}  // namespace ringwise
