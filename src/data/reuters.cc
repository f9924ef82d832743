#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <map>
#include <utility>

#include "core/shuffle.h"
#include "data/data_folder.h"
#include "data/newswires.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

constexpr const char* kExpected =
    "Reuters-21578: reuters21578.tar.gz, or a folder with reut2-000.sgm to reut2-021.sgm";
constexpr int kFiles = 22;
constexpr int kLeastNewswires = 15;                      // of a topic that is a class
constexpr uint64_t kShuffleStream = 0x7265757465727330;  // another than other uses of the seed

std::string_view FileName(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::map<std::string, std::string> ReadSgml(const std::string& path) {
  std::map<std::string, std::string> files;
  std::vector<std::string> names;
  names.reserve(kFiles);
  for (int i = 0; i < kFiles; ++i) names.push_back(fmt::format("reut2-{:03}.sgm", i));
  ReadFiles(
      DataFolder(path, "reuters21578", names.front(), kExpected),
      [&](std::string_view file) {
        return std::find(names.begin(), names.end(), FileName(file)) != names.end();
      },
      [&](std::string_view file, std::string&& bytes) {
        if (!files.emplace(FileName(file), std::move(bytes)).second) {
          throw FileError(
              fmt::format("{}: {} is there twice; expected {}", path, FileName(file), kExpected));
        }
      });
  if (files.empty()) throw FileError(fmt::format("{}: not {}", path, kExpected));
  for (const std::string& name : names) {
    if (!files.contains(name)) {
      throw FileError(fmt::format("{}: {} is missing; expected {}", path, name, kExpected));
    }
  }
  return files;
}

// The number that the original gives every newswire, from 1 on.
int64_t NumberOf(const Newswire& newswire) {
  int64_t number = 0;
  std::from_chars(newswire.id.data(), newswire.id.data() + newswire.id.size(), number);
  return number;
}

// Those with a topic; LabelledText::label is to come.
std::vector<std::pair<std::string, LabelledText>> ReadTopics(const std::string& path) {
  std::vector<std::pair<std::string, LabelledText>> topics;
  int64_t count = 0;
  int64_t last = 0;
  for (const auto& [name, sgml] : ReadSgml(path)) {
    for (Newswire& newswire : ParseNewswires(sgml, fmt::format("{}: {}", path, name))) {
      ++count;
      last = std::max(last, NumberOf(newswire));
      if (newswire.topic.empty()) continue;
      topics.emplace_back(
          std::move(newswire.topic),
          LabelledText{fmt::format("{} {}", name, newswire.id), std::move(newswire.text), 0});
    }
  }
  if (count < last) {
    throw FileError(fmt::format(
        "{}: only {} newswires, whose numbers go to {}; unpack or download the set again", path,
        count, last));
  }
  return topics;
}

}  // namespace

LabelledTexts ReadReuters(const std::string& path, uint64_t seed) {
  std::vector<std::pair<std::string, LabelledText>> topics = ReadTopics(path);
  std::map<std::string, int> counts;
  for (const auto& [topic, text] : topics) ++counts[topic];
  std::erase_if(counts, [](const auto& count) { return count.second < kLeastNewswires; });
  if (counts.empty()) {
    throw FileError(
        fmt::format("{}: {} newswires have a topic, but no topic has {} of them; expected {}", path,
                    topics.size(), kLeastNewswires, kExpected));
  }
  LabelledTexts texts;
  std::map<std::string, int32_t> labels;
  for (const auto& [topic, count] : counts) {
    labels[topic] = static_cast<int32_t>(texts.classes.size());
    texts.classes.push_back(topic);
  }
  for (auto& [topic, text] : topics) {
    const auto label = labels.find(topic);
    if (label == labels.end()) continue;
    text.label = label->second;
    texts.train.push_back(std::move(text));
  }
  Shuffle(texts.train, Random(seed, kShuffleStream));
  const auto train = static_cast<std::ptrdiff_t>(texts.train.size() * 4 / 5);
  texts.test.assign(std::make_move_iterator(texts.train.begin() + train),
                    std::make_move_iterator(texts.train.end()));
  texts.train.resize(static_cast<size_t>(train));
  RequireTrainingExamples(texts);
  return texts;
}

}  // namespace ringwise
