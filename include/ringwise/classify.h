#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ringwise/classifier.h"
#include "ringwise/documents.h"
#include "ringwise/launch.h"
#include "ringwise/layout.h"

namespace ringwise {

// Which of a text's words a classifier reads.
struct TextRule {
  int64_t max_words = 0;   // 0: all
  bool keep_last = false;  // of longer texts the last words, else the first

  bool operator==(const TextRule&) const = default;
};

// A classifier's folder beside its weights: config.json ("model_type": "ringwise_classifier") and
// vocabulary.txt.
struct ClassifierFolder {
  std::string task;  // what it was trained on: "imdb", "reuters", "synthetic"
  ClassifierConfig config;
  std::vector<std::string> classes;      // their names
  std::optional<Vocabulary> vocabulary;  // none: documents are features
  TextRule rule;
};

// Whether the folder's config.json says that it holds a classifier. Throws FileError: no such
// folder, no config.json.
bool IsClassifier(const std::string& folder);
// Throws FileError naming the file and the field: missing, corrupt, of another kind.
ClassifierFolder ReadClassifierFolder(const std::string& folder);
// Makes the folder if missing and flushes it to the disk; see SaveModel.
void SaveClassifier(Classifier& model, const ClassifierFolder& about, const std::string& folder);
// The model with its weights.
std::unique_ptr<Classifier> LoadClassifier(Context& context, const std::string& folder,
                                           DType compute);

// Documents as a classifier reads them. Thread-safe.
class DocumentSet {
 public:
  // What a batch's spans refer to.
  struct Rows {
    std::vector<int32_t> tokens;
    std::vector<int32_t> pairs;
    std::vector<float> features;
    std::vector<int32_t> labels;
  };

  virtual ~DocumentSet() = default;
  virtual int64_t size() const = 0;
  virtual int64_t rows(int64_t document) const = 0;  // padding included
  // Those documents packed into one sequence, this rank's rows of it. Lives as long as `rows`.
  // Collective over `ring`.
  virtual DocumentBatch Read(Context& context, Communicator& ring, Layout layout,
                             std::span<const int64_t> documents, Rows& rows) const = 0;
};

// Texts as tokens.
class TextDocuments : public DocumentSet {
 public:
  struct Options {
    TextRule rule;
    bool words_once = false;  // a word's later occurrences in a document become padding
    int64_t word_pairs = 0;   // rows that pairs of neighbouring words share by their hash; 0: none
    int64_t pad_to = 0;       // rows of every document, at least; 0: none are added
  };
  // A text without a word becomes one unknown word.
  TextDocuments(std::span<const LabelledText> texts, const Vocabulary& vocabulary,
                const Options& options);

  int64_t size() const override { return static_cast<int64_t>(documents_.size()); }
  int64_t rows(int64_t document) const override;
  DocumentBatch Read(Context& context, Communicator& ring, Layout layout,
                     std::span<const int64_t> documents, Rows& rows) const override;

  int64_t words() const;  // of all documents

 private:
  struct Document {
    std::vector<int32_t> tokens;
    int32_t label;
  };
  std::vector<Document> documents_;
  Options options_;
};

// How the folder's classifier reads texts. Throws UsageError if it reads none.
TextDocuments::Options ReadingOf(const ClassifierFolder& about);

// The data set of a task by its name, "imdb" or "reuters", from the path that its reader takes
// (ringwise/documents.h), with the split that is the same for all runs. Throws as the reader does;
// UsageError: another task.
LabelledTexts ReadTask(std::string_view task, const std::string& path);

// Samples `first` and on of the synthetic task (ringwise/synthetic.h): `length` rows of `width`
// standard normals; class 1 if their sum is above 0, else class 0. `count` is the set's size alone:
// Read makes those that follow too.
class SyntheticDocuments : public DocumentSet {
 public:
  SyntheticDocuments(uint64_t seed, int64_t first, int64_t count, int64_t length, int64_t width);

  int64_t size() const override { return count_; }
  int64_t rows(int64_t) const override { return length_; }
  DocumentBatch Read(Context& context, Communicator& ring, Layout layout,
                     std::span<const int64_t> documents, Rows& rows) const override;

 private:
  uint64_t seed_;
  int64_t first_;
  int64_t count_;
  int64_t length_;
  int64_t width_;
};

// `samples` samples for a classifier of features, which no training sees, whatever its seed and
// `seed` are: those that a run with this seed tests on. Throws UsageError: it reads words, or does
// not say of how many rows its samples are.
SyntheticDocuments SyntheticTest(const ClassifierConfig& config, uint64_t seed, int64_t samples);

// What a classifier says of every document of a set, in the set's order.
struct ClassScores {
  int64_t classes = 0;
  std::vector<float> logits;    // [documents, classes]
  std::vector<int32_t> labels;  // [documents]

  // softmax of a document's logits
  std::vector<double> Probabilities(int64_t document) const;
  // -ln of the label's probability
  double CrossEntropy(int64_t document) const;
};

// The same on every rank: documents go to the data-parallel groups in turn, several at a time.
// Collective over the world. `progress`, on rank 0, may be empty.
ClassScores Score(Rank& rank, Classifier& model, const DocumentSet& documents, Layout layout,
                  const std::function<void(int64_t done, int64_t in_all)>& progress);

// How right scores are.
struct ClassReport {
  int64_t documents = 0;
  double loss = 0;      // nats a document
  double accuracy = 0;  // share of documents whose label has the largest logit
  std::vector<std::vector<int64_t>> confusion;  // [label, class said]
  // Of each class; none where no document was said to be of it, or is.
  std::vector<std::optional<double>> precision;
  std::vector<std::optional<double>> recall;
};
ClassReport Judge(const ClassScores& scores);

}  // namespace ringwise
