#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <optional>

#include "data/data_folder.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr const char* kExpected =
    "the Large Movie Review Dataset: aclImdb_v1.tar.gz, or its folder aclImdb with train/neg, "
    "train/pos, test/neg and test/pos";

struct Folder {
  std::string_view split;
  std::string_view label;
  std::string path() const { return fmt::format("{}/{}", split, label); }
};
constexpr std::array<Folder, 4> kFolders = {
    {{"train", "neg"}, {"train", "pos"}, {"test", "neg"}, {"test", "pos"}}};

// "train/pos/0_9.txt" of "aclImdb/train/pos/0_9.txt"; nothing if it is no review.
std::optional<std::string_view> ReviewName(std::string_view path) {
  const size_t file = path.rfind('/');
  if (file == std::string_view::npos || !path.ends_with(".txt")) return std::nullopt;
  if (path[file + 1] == '.') return std::nullopt;  // other systems' notes beside a file
  for (const Folder& folder : kFolders) {
    const std::string inner = folder.path();
    const std::string_view above = path.substr(0, file);
    if (!above.ends_with(inner)) continue;
    const size_t begin = above.size() - inner.size();
    if (begin == 0 || path[begin - 1] == '/') return path.substr(begin);
  }
  return std::nullopt;
}

std::vector<LabelledText> ReadReviews(const std::string& path) {
  std::vector<LabelledText> reviews;
  ReadFiles(
      DataFolder(path, "aclImdb", "train", kExpected),
      [](std::string_view name) { return ReviewName(name).has_value(); },
      [&](std::string_view name, std::string&& text) {
        const std::string_view review = *ReviewName(name);
        const bool positive = review.substr(review.find('/') + 1).starts_with("pos");
        if (text.empty()) {
          throw FileError(
              fmt::format("{}: {} is empty; unpack or download the set again", path, review));
        }
        reviews.push_back({std::string(review), std::move(text), positive ? 1 : 0});
      });
  std::sort(reviews.begin(), reviews.end(),
            [](const LabelledText& a, const LabelledText& b) { return a.name < b.name; });
  return reviews;
}

// The place in kFolders of what ReviewName gave.
size_t FolderOf(const LabelledText& review) {
  const auto is_in = [&](const Folder& folder) {
    return review.name.starts_with(folder.path() + "/");
  };
  return static_cast<size_t>(std::ranges::find_if(kFolders, is_in) - kFolders.begin());
}

// The number N that the original gives a folder's reviews from 0 on, in "train/pos/N_RATING.txt".
std::optional<int64_t> NumberOf(const LabelledText& review) {
  int64_t number = 0;
  const char* const first = review.name.data() + review.name.rfind('/') + 1;
  const auto result = std::from_chars(first, review.name.data() + review.name.size(), number);
  const bool found = result.ec == std::errc() && *result.ptr == '_';
  return found ? std::optional(number) : std::nullopt;
}

void CheckWhole(const std::string& path, std::span<const LabelledText> reviews) {
  if (reviews.empty()) throw FileError(fmt::format("{}: not {}", path, kExpected));
  const auto same_name = [](const LabelledText& a, const LabelledText& b) {
    return a.name == b.name;
  };
  const auto twice = std::adjacent_find(reviews.begin(), reviews.end(), same_name);
  if (twice != reviews.end()) {
    throw FileError(
        fmt::format("{}: {} is there twice; expected {}", path, twice->name, kExpected));
  }
  std::array<int64_t, kFolders.size()> counts{};
  for (const LabelledText& review : reviews) ++counts[FolderOf(review)];
  for (size_t i = 0; i < kFolders.size(); ++i) {
    if (counts[i] > 0) continue;
    throw FileError(
        fmt::format("{}: no reviews in {}; expected {}", path, kFolders[i].path(), kExpected));
  }
  for (size_t i = 0; i < kFolders.size(); i += 2) {
    if (counts[i] != counts[i + 1]) {
      throw FileError(fmt::format(
          "{}: {} reviews in {} but {} in {}, expected as many; unpack or download the set again",
          path, counts[i], kFolders[i].path(), counts[i + 1], kFolders[i + 1].path()));
    }
  }
  for (const LabelledText& review : reviews) {
    const int64_t count = counts[FolderOf(review)];
    if (NumberOf(review).value_or(0) < count) continue;
    throw FileError(
        fmt::format("{}: {} is there, but only {} reviews beside it: some are missing; unpack or "
                    "download the set again",
                    path, review.name, count - 1));
  }
}

}  // namespace

LabelledTexts ReadImdb(const std::string& path) {
  std::vector<LabelledText> reviews = ReadReviews(path);
  CheckWhole(path, reviews);
  LabelledTexts texts{.classes = {"neg", "pos"}, .train = {}, .test = {}};
  for (LabelledText& review : reviews) {
    (review.name.starts_with("train/") ? texts.train : texts.test).push_back(std::move(review));
  }
  RequireTrainingExamples(texts);
  return texts;
}

}  // namespace ringwise
