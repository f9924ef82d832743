#include "ringwise/classify.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <string>
#include <vector>

#include "ringwise/error.h"
#include "ringwise/launch.h"

namespace ringwise {
namespace {

TEST(ClassScores, LossIsMinusTheLogOfProbabilities) {
  const ClassScores scores{.classes = 3, .logits = {1, 2, 4, 0, 0, 0}, .labels = {1, 2}};
  const double sum = std::exp(1.0) + std::exp(2.0) + std::exp(4.0);
  const std::vector<double> probabilities = scores.Probabilities(0);
  for (size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(probabilities[c], std::exp(static_cast<double>(scores.logits[c])) / sum, 1e-15);
  }
  EXPECT_NEAR(scores.CrossEntropy(0), std::log(sum) - 2, 1e-14);
  EXPECT_NEAR(scores.CrossEntropy(1), std::log(3.0), 1e-14);
}

TEST(ClassScores, ALossBeyondTheSmallestProbabilityIsFinite) {
  const ClassScores scores{.classes = 2, .logits = {-2000, 3000}, .labels = {0}};
  EXPECT_EQ(scores.Probabilities(0), (std::vector<double>{0, 1}));
  EXPECT_EQ(scores.CrossEntropy(0), 5000);
  EXPECT_EQ(Judge(scores).loss, 5000);
}

TEST(Judge, CountsByLabelAndClassSaid) {
  // Said: 0, 0, 1, 1, 1; class 2 neither is nor is said, class 3 is and is not said.
  const ClassScores scores{.classes = 4,
                           .logits = {9, 0, 0, 0, 9, 0, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0},
                           .labels = {0, 1, 1, 1, 3}};
  const ClassReport report = Judge(scores);
  EXPECT_EQ(report.documents, 5);
  EXPECT_EQ(report.accuracy, 0.6);
  using Row = std::vector<int64_t>;
  EXPECT_EQ(report.confusion,
            (std::vector<Row>{Row{1, 0, 0, 0}, Row{1, 2, 0, 0}, Row{0, 0, 0, 0}, Row{0, 1, 0, 0}}));
  EXPECT_EQ(report.precision,
            (std::vector<std::optional<double>>{1.0 / 2, 2.0 / 3, std::nullopt, std::nullopt}));
  EXPECT_EQ(report.recall, (std::vector<std::optional<double>>{1.0, 2.0 / 3, std::nullopt, 0.0}));
}

// What a ring's ranks hold of a batch, put together by position.
struct Whole {
  std::vector<int32_t> tokens;
  std::vector<int32_t> pairs;
  std::vector<float> features;
  std::vector<int32_t> labels;

  bool operator==(const Whole&) const = default;
};

Whole ReadWhole(const DocumentSet& set, const std::vector<int64_t>& documents, int ring,
                Layout layout, int64_t width) {
  Whole whole;
  std::mutex mutex;
  Launch({.ring = ring, .data_parallel = 1, .threads = 1}, [&](Rank& rank) {
    DocumentSet::Rows rows;
    const DocumentBatch batch = set.Read(rank.context, rank.ring, layout, documents, rows);
    const std::lock_guard lock(mutex);
    const auto all = static_cast<size_t>(batch.documents.back().end);
    whole.labels.assign(batch.labels.begin(), batch.labels.end());
    if (width == 0) whole.tokens.resize(all);
    if (!rows.pairs.empty()) whole.pairs.resize(all);
    whole.features.resize(all * static_cast<size_t>(width));
    size_t local = 0;
    for (const PositionRun& run : batch.positions[static_cast<size_t>(rank.ring.rank())]) {
      for (int64_t i = 0; i < run.count; ++i, ++local) {
        const auto at = static_cast<size_t>(run[i]);
        if (width == 0) whole.tokens[at] = batch.tokens[local];
        if (!batch.pairs.empty()) whole.pairs[at] = batch.pairs[local];
        for (int64_t j = 0; j < width; ++j) {
          const auto column = static_cast<size_t>(j);
          whole.features[at * static_cast<size_t>(width) + column] =
              batch.features.at<float>(static_cast<int64_t>(local))[j];
        }
      }
    }
  });
  return whole;
}

std::vector<LabelledText> Texts() {
  return {{"a", "one two three one", 0}, {"b", "five", 1}, {"c", "", 1}, {"d", "two two six", 0}};
}

TEST(TextDocuments, PackedAsTheRuleSays) {
  const Vocabulary vocabulary({"one", "two", "three"});
  const auto tokens = [&](const TextDocuments::Options& options) {
    return ReadWhole(TextDocuments(Texts(), vocabulary, options), {0, 1, 2, 3}, 1,
                     Layout::kContiguous, 0)
        .tokens;
  };
  using Tokens = std::vector<int32_t>;
  EXPECT_EQ(tokens({}), (Tokens{2, 3, 4, 2, 1, 1, 3, 3, 1}));
  EXPECT_EQ(tokens({.rule = {.max_words = 2, .keep_last = false}}), (Tokens{2, 3, 1, 1, 3, 3}));
  EXPECT_EQ(tokens({.rule = {.max_words = 2, .keep_last = true}}), (Tokens{4, 2, 1, 1, 3, 1}));
  EXPECT_EQ(tokens({.rule = {}, .words_once = true}), (Tokens{2, 3, 4, 0, 1, 1, 3, 0, 1}));
  EXPECT_EQ(tokens({.rule = {}, .pad_to = 3}), (Tokens{2, 3, 4, 2, 1, 0, 0, 1, 0, 0, 3, 3, 1}));
}

TEST(TextDocuments, PairsAreOfNeighboursInOneDocument) {
  const std::vector<LabelledText> texts = {{"a", "one two one two", 0}, {"b", "two one", 1}};
  const TextDocuments set(texts, Vocabulary({"one", "two"}),
                          {.rule = {}, .word_pairs = 1 << 20, .pad_to = 3});
  const std::vector<int32_t> pairs = ReadWhole(set, {0, 1}, 1, Layout::kContiguous, 0).pairs;
  ASSERT_EQ(pairs.size(), 7U);
  const int32_t one_two = pairs[1];
  const int32_t two_one = pairs[2];
  EXPECT_NE(one_two, two_one);
  // Nothing stands before a document's first word, and padding has no pair.
  EXPECT_EQ(pairs, (std::vector<int32_t>{-1, one_two, two_one, one_two, -1, two_one, -1}));
  for (const int32_t pair : {one_two, two_one}) {
    EXPECT_GE(pair, 0);
    EXPECT_LT(pair, 1 << 20);
  }
}

TEST(DocumentSet, TheSameOnEveryRingAndLayout) {
  const TextDocuments texts(Texts(), Vocabulary({"one", "two", "three"}),
                            {.rule = {}, .word_pairs = 50, .pad_to = 2});
  const SyntheticDocuments samples(7, 3, 5, 13, 4);
  const std::vector<int64_t> documents{3, 0, 2};
  const Whole text = ReadWhole(texts, documents, 1, Layout::kContiguous, 0);
  const Whole sample = ReadWhole(samples, documents, 1, Layout::kContiguous, 4);
  EXPECT_EQ(text.labels, (std::vector<int32_t>{0, 0, 1}));
  for (size_t d = 0; d < 3; ++d) {
    double sum = 0;
    for (size_t i = d * 13 * 4; i < (d + 1) * 13 * 4; ++i) sum += sample.features[i];
    EXPECT_EQ(sample.labels[d], sum > 0 ? 1 : 0);
  }
  for (const Layout layout : {Layout::kContiguous, Layout::kStriped, Layout::kZigzag}) {
    for (const int ring : {2, 3, 5}) {
      EXPECT_EQ(ReadWhole(texts, documents, ring, layout, 0), text);
      EXPECT_EQ(ReadWhole(samples, documents, ring, layout, 4), sample);
    }
  }
}

TEST(SyntheticTest, IsOfFeatureClassifiersAlone) {
  ClassifierConfig config{.classes = 2, .features = 4, .hidden = 4, .document_rows = 13};
  EXPECT_EQ(SyntheticTest(config, 1, 10).rows(0), 13);
  config.document_rows = 0;
  EXPECT_THROW(SyntheticTest(config, 1, 10), UsageError);
  config.document_rows = 13;
  config.vocab = 5;
  EXPECT_THROW(SyntheticTest(config, 1, 10), UsageError);
  EXPECT_THROW(ReadTask("synthetic", "nowhere"), UsageError);
  EXPECT_THROW(ReadingOf(ClassifierFolder()), UsageError);
}

}  // namespace
}  // namespace ringwise
