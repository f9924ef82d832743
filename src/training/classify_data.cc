#include "training/classify_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/shuffle.h"
#include "ringwise/documents.h"
#include "ringwise/error.h"
#include "ringwise/random.h"
#include "training/classify_task.h"

namespace ringwise {
namespace {

// Names the uses of randomness here, so that they do not repeat those of others.
constexpr uint64_t kSplitStream = 0x73706c6974000000;
constexpr uint64_t kTrainStream = 0x747261696e000000;
constexpr uint64_t kValidationStream = 0x76616c6964000000;

constexpr int64_t kTestSamples = 4000;        // synthetic
constexpr int64_t kValidationSamples = 1000;  // likewise

ClassifierConfig ConfigOf(const TrainOptions& options) {
  const ClassifyOptions& classify = options.classify;
  ClassifierConfig config{.network = classify.network, .hidden = options.model.hidden};
  if (classify.network == Network::kEncoder) {
    config.layers = options.model.layers;
    config.heads = options.model.heads;
    config.ffn = options.model.ffn;
    config.norm_place = classify.norm_place;
    config.norm_over = classify.norm_over;
    config.word_pairs = classify.word_pairs;
    config.norm_eps = options.model.rms_norm_eps;
    config.rope_theta = classify.positions ? options.model.rope_theta : 0;
    config.dropout = classify.sublayer_dropout;
    config.input_dropout = classify.input_dropout;
    config.attention_dropout = options.dropout;
    config.head_dropout = classify.head_dropout;
  }
  return config;
}

// Takes a share of the training documents away, chosen by the seed.
std::vector<LabelledText> TakeValidation(LabelledTexts& texts, double share, uint64_t seed) {
  std::vector<LabelledText>& train = texts.train;
  Shuffle(train, Random(seed, kSplitStream));
  const auto count = static_cast<int64_t>(std::llround(share * static_cast<double>(train.size())));
  std::vector<LabelledText> validation(std::make_move_iterator(train.end() - count),
                                       std::make_move_iterator(train.end()));
  train.resize(train.size() - validation.size());
  return validation;
}

}  // namespace

ClassifyData::ClassifyData(const TrainOptions& options) {
  about_.task = Name(options.task);
  about_.config = ConfigOf(options);
  about_.rule = options.classify.rule;
  if (options.task == Task::kSynthetic) {
    MakeSynthetic(options);
  } else {
    ReadTexts(options);
  }
  about_.config.classes = std::ssize(about_.classes);
  Validate(about_.config);
}

void ClassifyData::MakeSynthetic(const TrainOptions& options) {
  const auto make = [&](uint64_t stream, int64_t count) {
    return std::make_unique<SyntheticDocuments>(DeriveSeed(options.seed, stream), 0, count,
                                                options.context, options.classify.features);
  };
  const auto samples = static_cast<int64_t>(
      std::ceil(options.classify.epochs * static_cast<double>(options.classify.samples)));
  train_ = make(kTrainStream, samples);
  validation_ = make(kValidationStream, options.heldout_fraction > 0 ? kValidationSamples : 0);
  about_.classes = {"sum at most 0", "sum above 0"};
  about_.config.features = options.classify.features;
  about_.config.document_rows = options.context;
  test_ = std::make_unique<SyntheticDocuments>(
      SyntheticTest(about_.config, options.seed, kTestSamples));
  words_ = options.context;
  shuffles_ = false;
}

void ClassifyData::ReadTexts(const TrainOptions& options) {
  LabelledTexts texts = ReadTask(about_.task, options.data.front());
  fingerprint_ = DeriveSeed(Fingerprint(texts), options.classify.pad ? 1 : 0);
  const std::vector<LabelledText> validation =
      TakeValidation(texts, options.heldout_fraction, options.seed);
  RequireTrainingExamples(texts);
  about_.vocabulary.emplace(texts.train, options.model.vocab);
  about_.config.vocab = about_.vocabulary->size();
  about_.classes = texts.classes;
  TextDocuments::Options how = ReadingOf(about_);
  const auto make = [&](const std::vector<LabelledText>& some) {
    return std::make_unique<TextDocuments>(some, *about_.vocabulary, how);
  };
  auto train = make(texts.train);
  if (options.classify.pad) {
    for (int64_t d = 0; d < train->size(); ++d) how.pad_to = std::max(how.pad_to, train->rows(d));
    train = make(texts.train);
  }
  words_ = train->words();
  train_ = std::move(train);
  validation_ = make(validation);
  test_ = make(texts.test);
}

std::unique_ptr<TrainTask> ClassifyData::MakeTask(Rank& rank, const TrainOptions& options) const {
  return std::make_unique<ClassifyTask>(rank, options, *this);
}

}  // namespace ringwise
