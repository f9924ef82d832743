#include <algorithm>
#include <unordered_set>
#include <utility>

#include "ringwise/classify.h"
#include "ringwise/random.h"
#include "ringwise/synthetic.h"

namespace ringwise {
namespace {

// Where the documents stand, and what every rank holds of them.
DocumentBatch Pack(Communicator& ring, Layout layout, std::span<const PackedDocument> documents) {
  DocumentBatch batch;
  batch.documents.assign(documents.begin(), documents.end());
  const int64_t rows = documents.empty() ? 0 : documents.back().end;
  for (int rank = 0; rank < ring.size(); ++rank) {
    batch.positions.push_back(ShardPositions(layout, rows, ring.size(), rank));
  }
  return batch;
}

// body(document, first row in it, run of the sequence) for every stretch of this rank's rows that
// lies in one document.
template <class Body>
void ForEachStretch(const DocumentBatch& batch, int rank, Body&& body) {
  for (const PositionRun& run : batch.positions[static_cast<size_t>(rank)]) {
    int64_t i = 0;
    for (size_t d = 0; d < batch.documents.size() && i < run.count; ++d) {
      const PackedDocument& document = batch.documents[d];
      const int64_t begin = i;
      while (i < run.count && run[i] < document.end) ++i;
      if (i > begin) {
        body(d, PositionRun{run[begin] - document.begin, i - begin, run.stride});
      }
    }
  }
}

// Which of `rows` a pair of neighbouring words has. Models on disk depend on it.
int32_t PairRow(int32_t before, int32_t word, int64_t rows) {
  return static_cast<int32_t>(
      DeriveSeed(static_cast<uint64_t>(before), static_cast<uint64_t>(word)) %
      static_cast<uint64_t>(rows));
}

}  // namespace

TextDocuments::TextDocuments(std::span<const LabelledText> texts, const Vocabulary& vocabulary,
                             const Options& options)
    : options_(options) {
  documents_.reserve(texts.size());
  for (const LabelledText& text : texts) {
    std::vector<int32_t> tokens = vocabulary.Tokens(text.text);
    if (tokens.empty()) tokens.push_back(Vocabulary::kUnknown);
    const int64_t most = options.rule.max_words;
    if (most > 0 && std::ssize(tokens) > most) {
      if (options.rule.keep_last) {
        tokens.erase(tokens.begin(), tokens.end() - most);
      } else {
        tokens.resize(static_cast<size_t>(most));
      }
    }
    if (options.words_once) {
      std::unordered_set<int32_t> seen;
      for (int32_t& token : tokens) {
        if (!seen.insert(token).second) token = Vocabulary::kPadding;
      }
    }
    documents_.push_back({std::move(tokens), text.label});
  }
}

int64_t TextDocuments::rows(int64_t document) const {
  return std::max(std::ssize(documents_[static_cast<size_t>(document)].tokens), options_.pad_to);
}

int64_t TextDocuments::words() const {
  int64_t words = 0;
  for (const Document& document : documents_) words += std::ssize(document.tokens);
  return words;
}

DocumentBatch TextDocuments::Read(Context& /*context*/, Communicator& ring, Layout layout,
                                  std::span<const int64_t> documents, Rows& rows) const {
  std::vector<PackedDocument> packed;
  rows = {};
  int64_t at = 0;
  for (const int64_t document : documents) {
    const Document& source = documents_[static_cast<size_t>(document)];
    packed.push_back({at, at + this->rows(document), std::ssize(source.tokens)});
    at = packed.back().end;
    rows.labels.push_back(source.label);
  }
  DocumentBatch batch = Pack(ring, layout, packed);
  ForEachStretch(batch, ring.rank(), [&](size_t d, const PositionRun& words) {
    const Document& source = documents_[static_cast<size_t>(documents[d])];
    for (int64_t i = 0; i < words.count; ++i) {
      const int64_t word = words[i];
      const bool padding = word >= std::ssize(source.tokens);
      const int32_t token =
          padding ? Vocabulary::kPadding : source.tokens[static_cast<size_t>(word)];
      rows.tokens.push_back(token);
      if (options_.word_pairs == 0) continue;
      rows.pairs.push_back(
          padding || word == 0
              ? -1
              : PairRow(source.tokens[static_cast<size_t>(word - 1)], token, options_.word_pairs));
    }
  });
  batch.tokens = rows.tokens;
  batch.pairs = rows.pairs;
  batch.labels = rows.labels;
  return batch;
}

SyntheticDocuments::SyntheticDocuments(uint64_t seed, int64_t first, int64_t count, int64_t length,
                                       int64_t width)
    : seed_(seed), first_(first), count_(count), length_(length), width_(width) {}

DocumentBatch SyntheticDocuments::Read(Context& context, Communicator& ring, Layout layout,
                                       std::span<const int64_t> documents, Rows& rows) const {
  std::vector<PackedDocument> packed;
  for (size_t d = 0; d < documents.size(); ++d) {
    const auto begin = static_cast<int64_t>(d) * length_;
    packed.push_back({begin, begin + length_, length_});
  }
  DocumentBatch batch = Pack(ring, layout, packed);
  const int64_t mine = Count(batch.positions[static_cast<size_t>(ring.rank())]);
  rows = {};
  rows.features.resize(static_cast<size_t>(mine * width_));
  std::vector<double> sums(documents.size());
  int64_t at = 0;
  ForEachStretch(batch, ring.rank(), [&](size_t d, const PositionRun& run) {
    float* const values = rows.features.data() + at * width_;
    SyntheticRows(context, seed_, first_ + documents[d], {run},
                  {values, DType::kF32, {run.count, width_}});
    for (int64_t i = 0; i < run.count * width_; ++i) sums[d] += values[i];
    at += run.count;
  });
  ring.AllReduceSum(std::span<double>(sums));
  for (const double sum : sums) rows.labels.push_back(sum > 0 ? 1 : 0);
  batch.features = {rows.features.data(), DType::kF32, {mine, width_}};
  batch.labels = rows.labels;
  return batch;
}

}  // namespace ringwise
