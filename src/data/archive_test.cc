#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/temporary_folder.h"
#include "data/documents_case.h"
#include "formats/file_io.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ArchiveTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const {
    return (fs::path(temporary_.path()) / name).string();
  }

  static FileTree Read(const std::string& path) {
    FileTree files;
    ReadFiles(
        path, [](std::string_view name) { return name.find("skip") == std::string_view::npos; },
        [&](std::string_view name, std::string&& bytes) {
          EXPECT_TRUE(files.emplace(name, std::move(bytes)).second) << name;
        });
    return files;
  }

  static std::string ErrorOf(const std::string& path) {
    try {
      Read(path);
    } catch (const FileError& error) {
      EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
      return error.what();
    }
    return "no error";
  }

  // Bytes that compression leaves long, and a file of more than one block.
  static FileTree Files() {
    std::string noise;
    uint32_t state = 1;
    for (int i = 0; i < 300000; ++i) {
      state = state * 1664525 + 1013904223;
      noise += static_cast<char>(state >> 24);
    }
    return {{"a/one.txt", "one"}, {"a/skip.txt", "-"}, {"b/empty", ""}, {"noise", noise}};
  }

  // Damage in the first block that is decompressed leaves nothing to know an archive by.
  static auto IsDamaged(const std::string& name) {
    return AnyOf(HasSubstr(name + ": the archive is truncated or corrupt"),
                 HasSubstr(name + ": not an archive that can be read"));
  }

  TemporaryFolder temporary_;
};

TEST_F(ArchiveTest, EveryKindGivesTheSameFiles) {
  FileTree expected = Files();
  expected.erase("a/skip.txt");
  WriteFolder(Files(), Path("folder"));
  EXPECT_EQ(Read(Path("folder")), expected);
  for (const std::string name : {"x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2", "x.zip"}) {
    WriteArchive(Files(), Path(name), "./");
    EXPECT_EQ(Read(Path(name)), expected) << name;
  }
}

TEST_F(ArchiveTest, OrderIsTheArchivesOrThatOfNames) {
  const auto names = [](const std::string& path) {
    std::vector<std::string> order;
    ReadFiles(
        path, [](std::string_view) { return true; },
        [&](std::string_view name, std::string&&) { order.emplace_back(name); });
    return order;
  };
  WriteFolder(Files(), Path("folder"));
  EXPECT_THAT(names(Path("folder")), ElementsAre("a/one.txt", "a/skip.txt", "b/empty", "noise"));
  WriteArchive(Files(), Path("x.tar"), "");
  EXPECT_THAT(names(Path("x.tar")), ElementsAre("noise", "b/empty", "a/skip.txt", "a/one.txt"));
}

TEST_F(ArchiveTest, RefusesWhatIsNoArchive) {
  EXPECT_THAT(ErrorOf(Path("missing")), HasSubstr("missing: cannot read: No such file"));
  WriteTextFile(Path("empty"), "");
  WriteTextFile(Path("text"), "Just some text.\n");
  EXPECT_THAT(ErrorOf(Path("empty")), HasSubstr("empty: not an archive"));
  EXPECT_THAT(ErrorOf(Path("text")), HasSubstr("text: not an archive"));
  EXPECT_EQ(ErrorOf("/dev/null"), "/dev/null: neither a file nor a folder");
}

// Wherever it is cut: in the data, and in what is behind it.
TEST_F(ArchiveTest, RefusesTruncatedArchives) {
  for (const std::string name : {"x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2"}) {
    WriteArchive(Files(), Path(name), "");
    const std::string whole = ReadTextFile(Path(name));
    for (const size_t left : {size_t{20}, size_t{1000}, whole.size() / 2, whole.size() - 2}) {
      if (name == "x.tar" && left == whole.size() - 2) continue;  // padding, of no meaning
      WriteTextFile(Path("cut"), whole.substr(0, left));
      EXPECT_THAT(ErrorOf(Path("cut")), IsDamaged("cut"))
          << name << ", " << left << " of " << whole.size() << " bytes";
    }
  }
}

// Noise is stored as it is, so a changed byte is found by the checksum alone.
TEST_F(ArchiveTest, RefusesDamagedArchives) {
  for (const std::string name : {"x.tar.gz", "x.tar.xz", "x.tar.bz2", "x.zip"}) {
    WriteArchive(Files(), Path(name), "");
    std::string bytes = ReadTextFile(Path(name));
    bytes[bytes.size() / 2] ^= 1;
    WriteTextFile(Path("damaged"), bytes);
    EXPECT_THAT(ErrorOf(Path("damaged")), IsDamaged("damaged")) << name;
  }
}

}  // namespace
}  // namespace ringwise
