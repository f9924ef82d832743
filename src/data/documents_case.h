#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

namespace ringwise {

// Small data sets in the layouts of the real ones, for tests: path inside -> bytes.
using FileTree = std::map<std::string, std::string>;

// `reviews` in each of the four folders, whose names are in another order than their numbers, and
// what the original has besides.
inline FileTree SmallImdb(int reviews) {
  FileTree files{{"README", "About the set."},
                 {"imdb.vocab", "the"},
                 {"train/unsup/0_0.txt", "Never read."},
                 {"train/labeledBow.feat", "9 0:9"}};
  for (const std::string split : {"train", "test"}) {
    for (const std::string label : {"neg", "pos"}) {
      for (int i = 0; i < reviews; ++i) {
        files[fmt::format("{}/{}/{}_{}.txt", split, label, i, label == "neg" ? 2 : 9)] =
            fmt::format("{} {} number {}<br /><br />The end.", split, label, i);
      }
    }
  }
  return files;
}

inline std::string Newsline(int id, const std::string& topics, const std::string& text) {
  return fmt::format(
      "<REUTERS TOPICS=\"YES\" OLDID=\"{}\" NEWID=\"{}\">\n<TOPICS>{}</TOPICS>\n"
      "<PLACES><D>usa</D></PLACES>\n<TEXT>&#2;\n{}&#3;</TEXT>\n</REUTERS>\n",
      id + 1000, id, topics, text);
}

// 22 files with, in all, `gold` newswires on gold (which also have topic silver), `tin` on tin, and
// one on silver first; and one without a topic in each file.
inline FileTree SmallReuters(int gold, int tin) {
  FileTree files{{"README.txt", "About the set."}, {"all-topics-strings.lc.txt", "gold\ntin\n"}};
  int id = 0;
  for (int file = 0; file < 22; ++file) {
    std::string& sgml = files[fmt::format("reut2-{:03}.sgm", file)];
    sgml = "<!DOCTYPE lewis SYSTEM \"lewis.dtd\">\n";
    const auto add = [&](const std::string& topics, const std::string& text) {
      ++id;
      sgml +=
          Newsline(id, topics, fmt::format("<TITLE>{} {}</TITLE>\n<BODY>Body.\n</BODY>", text, id));
    };
    add("", "Nothing");
    for (int i = file; i < gold; i += 22) add("<D>gold</D><D>silver</D>", "Gold");
    for (int i = file; i < tin; i += 22) add("<D>tin</D>", "Tin");
    if (file == 3) add("<D>silver</D><D>gold</D>", "Silver");
  }
  return files;
}

inline void WriteFolder(const FileTree& files, const std::string& folder) {
  for (const auto& [name, bytes] : files) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
  }
}

// An archive of the files in reverse order, each below `prefix`. `path` says by its ending what
// kind: .tar, .tar.gz, .tar.xz, .zip.
inline void WriteArchive(const FileTree& files, const std::string& path,
                         const std::string& prefix) {
  const std::unique_ptr<archive, int (*)(archive*)> writer(archive_write_new(), archive_write_free);
  const auto check = [&](int result) {
    if (result != ARCHIVE_OK) throw std::runtime_error(archive_error_string(writer.get()));
  };
  check(archive_write_set_format_filter_by_ext(writer.get(), path.c_str()));
  check(archive_write_open_filename(writer.get(), path.c_str()));
  for (auto file = files.rbegin(); file != files.rend(); ++file) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         archive_entry_free);
    archive_entry_set_pathname(entry.get(), (prefix + file->first).c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(file->second.size()));
    check(archive_write_header(writer.get(), entry.get()));
    archive_write_data(writer.get(), file->second.data(), file->second.size());
  }
  check(archive_write_close(writer.get()));
}

}  // namespace ringwise
