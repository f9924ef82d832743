#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "data/words.h"
#include "formats/file_io.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

std::string FilePath(const std::string& folder) {
  return (std::filesystem::path(folder) / "vocabulary.txt").string();
}

}  // namespace

Vocabulary::Vocabulary(std::span<const LabelledText> texts, int64_t size) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (size <= kFirstWord || size > kMost) {
    throw UsageError(fmt::format(
        "the vocabulary must have {} to {} tokens (padding, other words, and words), got {}",
        kFirstWord + 1, kMost, size));
  }
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> counts;
  for (const LabelledText& text : texts) {
    for (WordReader reader(text.text); reader.Next();) {
      const auto found = counts.find(reader.word());
      if (found != counts.end()) {
        ++found->second;
      } else {
        counts.emplace(reader.word(), 1);
      }
    }
  }
  std::vector<std::pair<int64_t, std::string>> order;
  order.reserve(counts.size());
  for (const auto& [word, count] : counts) order.emplace_back(-count, word);
  std::sort(order.begin(), order.end());
  order.resize(std::min(order.size(), static_cast<size_t>(size - kFirstWord)));
  std::vector<std::string> words;
  words.reserve(order.size());
  for (auto& [count, word] : order) words.push_back(std::move(word));
  if (words.empty()) {
    throw UsageError(fmt::format("no word in {} texts: no vocabulary to be made", texts.size()));
  }
  *this = Vocabulary(std::move(words));
}

Vocabulary::Vocabulary(std::vector<std::string> words) : words_(std::move(words)) {
  if (words_.empty()) throw UsageError("a vocabulary needs at least one word, found none");
  tokens_.reserve(words_.size());
  for (size_t i = 0; i < words_.size(); ++i) {
    const std::string& word = words_[i];
    if (word.empty() || word.find_first_of(" \t\r\n") != std::string::npos) {
      throw UsageError(fmt::format("word {} of the vocabulary is {}, expected letters or digits",
                                   i + 1, Quoted(word)));
    }
    if (!tokens_.emplace(word, kFirstWord + static_cast<int32_t>(i)).second) {
      throw UsageError(
          fmt::format("word {} of the vocabulary, {}, was there before", i + 1, Quoted(word)));
    }
  }
}

std::vector<int32_t> Vocabulary::Tokens(std::string_view text) const {
  std::vector<int32_t> tokens;
  tokens.reserve(text.size() / 4);
  for (WordReader reader(text); reader.Next();) {
    const auto found = tokens_.find(reader.word());
    tokens.push_back(found != tokens_.end() ? found->second : kUnknown);
  }
  return tokens;
}

Vocabulary Vocabulary::Read(const std::string& folder) {
  const std::string path = FilePath(folder);
  const std::string text = ReadTextFile(path);
  if (!text.ends_with('\n')) {
    throw FileError(path + ": does not end with a newline; it is truncated, copy it again");
  }
  std::vector<std::string> words;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  try {
    return Vocabulary(std::move(words));
  } catch (const UsageError& error) {
    throw FileError(fmt::format("{}: {}; take the file of the trained model", path, error.what()));
  }
}

void Vocabulary::Write(const std::string& folder) const {
  std::string text;
  for (const std::string& word : words_) text.append(word).append("\n");
  WriteTextFile(FilePath(folder), text);
}

}  // namespace ringwise
