#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace ringwise {

// A new, empty folder in the system's place for temporary files; gone with everything in it when
// this goes. For tests.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ringwise_").string();
    name += "XXXXXX";  // mkdtemp's place for its own letters
    if (mkdtemp(name.data()) == nullptr) {
      throw std::system_error(errno, std::system_category(), name);
    }
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;  // a test's verdict does not hang on tidying up
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace ringwise
