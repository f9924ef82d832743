#include <algorithm>
#include <cmath>
#include <numeric>

#include "ringwise/classify.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

// Documents are packed up to so many rows a pass: enough for fast products, little memory.
constexpr int64_t kRowsAtOnce = 16384;

// A document's share of something, none where that is empty.
std::optional<double> Share(int64_t part, int64_t whole) {
  if (whole == 0) return std::nullopt;
  return static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

std::vector<double> ClassScores::Probabilities(int64_t document) const {
  const float* const of = logits.data() + document * classes;
  const double largest = *std::max_element(of, of + classes);
  std::vector<double> values;
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += values.emplace_back(std::exp(of[c] - largest));
  for (double& value : values) value /= sum;
  return values;
}

double ClassScores::CrossEntropy(int64_t document) const {
  const float* const of = logits.data() + document * classes;
  const double largest = *std::max_element(of, of + classes);
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += std::exp(of[c] - largest);
  // Not the log of a probability, which may be too small for a double.
  return std::log(sum) + largest - of[labels[static_cast<size_t>(document)]];
}

ClassScores Score(Rank& rank, Classifier& model, const DocumentSet& documents, Layout layout,
                  const std::function<void(int64_t done, int64_t in_all)>& progress) {
  const int64_t count = documents.size();
  ClassScores scores;
  scores.classes = model.config().classes;
  // Each group's results where they belong, zeros elsewhere; then the sum.
  std::vector<float> logits(static_cast<size_t>(count * scores.classes));
  std::vector<float> labels(static_cast<size_t>(count));
  const int groups = rank.data_parallel.size();
  int64_t turn = 0;
  for (int64_t begin = 0; begin < count; ++turn) {
    int64_t end = begin;
    int64_t rows = 0;
    while (end < count && (end == begin || rows + documents.rows(end) <= kRowsAtOnce)) {
      rows += documents.rows(end++);
    }
    if (turn % groups == rank.data_parallel.rank()) {
      std::vector<int64_t> some(static_cast<size_t>(end - begin));
      std::iota(some.begin(), some.end(), begin);
      DocumentSet::Rows storage;
      const DocumentBatch batch = documents.Read(rank.context, rank.ring, layout, some, storage);
      model.Logits(
          rank.ring, batch,
          {logits.data() + begin * scores.classes, DType::kF32, {end - begin, scores.classes}});
      std::copy(batch.labels.begin(), batch.labels.end(), labels.begin() + begin);
    }
    begin = end;
    if (progress && rank.world.rank() == 0) progress(begin, count);
  }
  rank.data_parallel.AllReduceSum(std::span<float>(logits));
  rank.data_parallel.AllReduceSum(std::span<float>(labels));
  scores.logits = std::move(logits);
  scores.labels.assign(labels.begin(), labels.end());
  return scores;
}

ClassReport Judge(const ClassScores& scores) {
  ClassReport report;
  report.documents = std::ssize(scores.labels);
  const auto classes = static_cast<size_t>(scores.classes);
  report.confusion.assign(classes, std::vector<int64_t>(classes));
  int64_t correct = 0;
  for (int64_t document = 0; document < report.documents; ++document) {
    const float* const logits = scores.logits.data() + document * scores.classes;
    const auto label = static_cast<size_t>(scores.labels[static_cast<size_t>(document)]);
    const auto said =
        static_cast<size_t>(std::max_element(logits, logits + scores.classes) - logits);
    ++report.confusion[label][said];
    correct += said == label ? 1 : 0;
    report.loss += scores.CrossEntropy(document);
  }
  if (report.documents > 0) {
    report.loss /= static_cast<double>(report.documents);
    report.accuracy = static_cast<double>(correct) / static_cast<double>(report.documents);
  }
  for (size_t c = 0; c < classes; ++c) {
    int64_t said = 0;
    for (size_t label = 0; label < classes; ++label) said += report.confusion[label][c];
    const std::vector<int64_t>& row = report.confusion[c];
    report.precision.push_back(Share(row[c], said));
    report.recall.push_back(Share(row[c], std::accumulate(row.begin(), row.end(), int64_t{0})));
  }
  return report;
}

}  // namespace ringwise
