#include <fmt/format.h>

#include "data/hash_bytes.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

uint64_t HashNumber(uint64_t number, uint64_t hash) {
  return HashBytes({reinterpret_cast<const char*>(&number), sizeof number}, hash);
}

// With its length, so that bytes cannot move from one string to the next unseen.
uint64_t HashString(std::string_view text, uint64_t hash) {
  return HashBytes(text, HashNumber(text.size(), hash));
}

uint64_t HashTexts(std::span<const LabelledText> texts, uint64_t hash) {
  hash = HashNumber(texts.size(), hash);
  for (const LabelledText& text : texts) {
    hash = HashNumber(static_cast<uint64_t>(text.label), hash);
    hash = HashString(text.text, HashString(text.name, hash));
  }
  return hash;
}

}  // namespace

void RequireTrainingExamples(const LabelledTexts& texts) {
  std::vector<bool> seen(texts.classes.size());
  for (const LabelledText& text : texts.train) seen[static_cast<size_t>(text.label)] = true;
  for (size_t label = 0; label < seen.size(); ++label) {
    if (!seen[label]) {
      throw FileError(fmt::format(
          "class {} has no example among the {} training texts; use another seed or more data",
          texts.classes[label], texts.train.size()));
    }
  }
}

uint64_t Fingerprint(const LabelledTexts& texts) {
  uint64_t hash = HashNumber(texts.classes.size(), kEmptyHash);
  for (const std::string& name : texts.classes) hash = HashString(name, hash);
  return HashTexts(texts.test, HashTexts(texts.train, hash));
}

}  // namespace ringwise
