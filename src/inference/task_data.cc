#include <fmt/format.h>

#include "ringwise/classify.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

// The test's split is the data set's own and the same for every run.
constexpr uint64_t kReutersSplit = 0;

// Names this use of randomness, so that it does not repeat those of others.
constexpr uint64_t kTestStream = 0x7465737400000000;

}  // namespace

LabelledTexts ReadTask(std::string_view task, const std::string& path) {
  if (task == "imdb") return ReadImdb(path);
  if (task == "reuters") return ReadReuters(path, kReutersSplit);
  throw UsageError(fmt::format("texts are read of the tasks imdb and reuters, not of '{}'", task));
}

TextDocuments::Options ReadingOf(const ClassifierFolder& about) {
  if (!about.vocabulary) {
    throw UsageError(fmt::format("a classifier of task {} reads no text", about.task));
  }
  return {.rule = about.rule,
          .words_once = about.config.network == Network::kWordsSeen,
          .word_pairs = about.config.word_pairs,
          .pad_to = 0};
}

SyntheticDocuments SyntheticTest(const ClassifierConfig& config, uint64_t seed, int64_t samples) {
  if (config.vocab > 0 || config.document_rows < 1) {
    throw UsageError("not a classifier of synthetic samples, which have features and a length");
  }
  return {DeriveSeed(seed, kTestStream), 0, samples, config.document_rows, config.features};
}

}  // namespace ringwise
