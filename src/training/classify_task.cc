#include "training/classify_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "core/shuffle.h"
#include "inference/weights.h"
#include "ringwise/error.h"
#include "ringwise/random.h"

namespace ringwise {
namespace {

// Names the uses of randomness here, so that they do not repeat those of others.
constexpr uint64_t kOrderStream = 0x6f72646572000000;
constexpr uint64_t kDropoutStream = 0x64726f7064000000;

// What a run cannot change on resuming.
ClassifierConfig WithoutDropout(ClassifierConfig config) {
  config.dropout = config.input_dropout = config.attention_dropout = config.head_dropout = 0;
  return config;
}

}  // namespace

ClassifyTask::ClassifyTask(Rank& rank, const TrainOptions& options, const ClassifyData& data)
    : rank_(rank), options_(options), data_(data) {}

int64_t ClassifyTask::DocumentsAStep() const {
  return options_.batch * options_.accumulate * rank_.data_parallel.size();
}

int64_t ClassifyTask::StepsLeft() const {
  const int64_t size = data_.train().size();
  // Of synthetic samples `train` has all epochs'.
  const double epochs = data_.shuffles() ? options_.classify.epochs : 1;
  const auto end = static_cast<int64_t>(std::ceil(epochs * static_cast<double>(size)));
  const auto steps_of = [&](int64_t documents) {
    return (documents + DocumentsAStep() - 1) / DocumentsAStep();
  };
  // What is left of an epoch that was begun, whole ones, and the start of the last. No step goes
  // over an epoch's end.
  const int64_t begun =
      std::clamp<int64_t>(end - drawn_before_, 0, (size - drawn_before_ % size) % size);
  const int64_t after = std::max<int64_t>(0, end - drawn_before_ - begun);
  return steps_of(begun) + after / size * steps_of(size) + steps_of(after % size);
}

std::vector<ContextPhase> ClassifyTask::Schedule() const {
  return {{.context = 0,
           .batch = options_.batch,
           .steps = options_.steps > 0 ? options_.steps : steps_before_ + StepsLeft()}};
}

void ClassifyTask::MakeModel() {
  model_ = MakeClassifier(rank_.context, data_.about().config, options_.compute);
}

void ClassifyTask::Begin(TrainState& state) {
  state.train_tokens = data_.words();
  state.data_fingerprint = data_.fingerprint();
  MakeModel();
  model_->Initialize(options_.seed);
}

void ClassifyTask::Resume(const TrainState& state, const std::string& checkpoint) {
  if (state.train_tokens != data_.words() || state.data_fingerprint != data_.fingerprint()) {
    throw UsageError(fmt::format(
        "the data changed since the run began ({} words to train on then, {} now): start a new run",
        state.train_tokens, data_.words()));
  }
  const ClassifierFolder before = ReadClassifierFolder(checkpoint);
  if (before.task != data_.about().task || before.rule != data_.about().rule ||
      WithoutDropout(before.config) != WithoutDropout(data_.about().config)) {
    throw UsageError(
        fmt::format("the model of {} has other shapes, norms, positions or word rules than the "
                    "flags say: leave "
                    "them out on resuming, or start a new run",
                    checkpoint));
  }
  steps_before_ = state.step;
  drawn_before_ = state.phase_sequences;
  MakeModel();
}

std::vector<std::string> ClassifyTask::Describe() {
  const ClassifierConfig& config = model_->config();
  int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.value.elements();
  std::string model =
      fmt::format("model: {:.2f} M parameters, {}, hidden {}", static_cast<double>(count) / 1e6,
                  Name(config.network), config.hidden);
  if (config.network == Network::kEncoder) {
    model += fmt::format(", {} layers, {} heads, feed-forward {}, norms {} over {}", config.layers,
                         config.heads, config.ffn, Name(config.norm_place), Name(config.norm_over));
  }
  return {fmt::format("data: {}, {} classes, {} documents to train on ({:.0f} {} each), {} for "
                      "validation, {} for the test",
                      data_.about().task, config.classes, data_.train().size(),
                      static_cast<double>(data_.words()) /
                          static_cast<double>(data_.shuffles() ? data_.train().size() : 1),
                      config.vocab > 0 ? "words" : "rows", data_.validation().size(),
                      data_.test().size()),
          model};
}

void ClassifyTask::ZeroGradients() {
  rank_.context.team.ForEach(std::ssize(parameters()), [&](int64_t index, int) {
    parameters()[static_cast<size_t>(index)].gradient.Zero();
  });
}

std::vector<int64_t> ClassifyTask::DocumentsOfStep(int64_t drawn) {
  const int64_t size = data_.train().size();
  if (!data_.shuffles()) {  // one after another; past the epochs where --steps says so
    const bool ends = options_.steps == 0 && drawn < size;
    const int64_t left = ends ? size - drawn : DocumentsAStep();
    std::vector<int64_t> samples(static_cast<size_t>(std::min(DocumentsAStep(), left)));
    std::iota(samples.begin(), samples.end(), drawn);
    return samples;
  }
  const int64_t epoch = drawn / size;
  if (epoch != epoch_) {
    epoch_ = epoch;
    order_.resize(static_cast<size_t>(size));
    std::iota(order_.begin(), order_.end(), 0);
    Shuffle(order_, Random(options_.seed, kOrderStream + static_cast<uint64_t>(epoch)));
  }
  // An epoch's last step has what is left.
  const int64_t begin = drawn % size;
  const int64_t end = std::min(size, begin + DocumentsAStep());
  return {order_.begin() + begin, order_.begin() + end};
}

double ClassifyTask::VisiblePairsOf(const DocumentBatch& batch) const {
  const Positions& mine = batch.positions[static_cast<size_t>(rank_.ring.rank())];
  double pairs = 0;
  for (const PositionRun& run : mine) {
    size_t document = 0;
    for (int64_t i = 0; i < run.count; ++i) {
      while (run[i] >= batch.documents[document].end) ++document;
      pairs += static_cast<double>(batch.documents[document].end - batch.documents[document].begin);
    }
  }
  return pairs;
}

TaskSums ClassifyTask::ForwardBackward(TrainState& state) {
  const std::vector<int64_t> documents = DocumentsOfStep(state.phase_sequences);
  const int64_t passes = options_.accumulate * rank_.data_parallel.size();
  const auto gradient_scale = static_cast<float>(1.0 / static_cast<double>(documents.size()));
  const uint64_t seed =
      DeriveSeed(options_.seed, kDropoutStream + static_cast<uint64_t>(state.step));
  TaskSums sums;
  for (int64_t i = 0; i < options_.accumulate; ++i) {
    const int64_t pass = i * rank_.data_parallel.size() + rank_.data_parallel.rank();
    const Range range =
        SplitRange(std::ssize(documents), static_cast<int>(passes), static_cast<int>(pass));
    if (range.size() == 0) continue;  // on every rank of the ring
    DocumentBatch batch =
        data_.train().Read(rank_.context, rank_.ring, options_.layout,
                           std::span(documents).subspan(static_cast<size_t>(range.begin),
                                                        static_cast<size_t>(range.size())),
                           rows_);
    batch.dropout_seed = DeriveSeed(seed, static_cast<uint64_t>(pass));
    sums.pairs += VisiblePairsOf(batch);
    const ClassSum sum = model_->ForwardBackward(rank_.ring, batch, gradient_scale);
    sums.nats += sum.nats;
    sums.targets += sum.documents;
    sums.correct += sum.correct;
    if (rank_.ring.rank() != 0) continue;
    for (const PackedDocument& document : batch.documents) sums.tokens += document.words;
  }
  state.phase_sequences += std::ssize(documents);
  return sums;
}

double ClassifyTask::StepFlops(const TaskSums& sums) const {
  return TrainFlops(model_->config(), static_cast<double>(sums.tokens), sums.pairs);
}

Figures ClassifyTask::Report(const TaskSums& sums, double seconds) const {
  const auto documents = static_cast<double>(sums.targets);
  const double accuracy = static_cast<double>(sums.correct) / documents;
  return {.values = {{"accuracy", accuracy},
                     {"documents", sums.targets},
                     {"documents_per_second", documents / seconds}},
          .text = fmt::format("loss {:.4f}  accuracy {:.3f}  {:.0f} documents/s",
                              sums.nats / documents, accuracy, documents / seconds)};
}

Figures ClassifyTask::Measure(const DocumentSet& documents, const std::string& name,
                              const TrainState& state, Progress& progress) {
  const TraceSpan span(rank_.context.trace, TraceKind::kPhase, "evaluation");
  const ClassReport report =
      Judge(Score(rank_, *model_, documents, options_.layout, [&](int64_t done, int64_t in_all) {
        progress.Note(
            fmt::format("step {}  {}: {} of {} documents", state.step, name, done, in_all));
      }));
  return {.values = {{name + "_loss", report.loss},
                     {name + "_accuracy", report.accuracy},
                     {name + "_documents", report.documents}},
          .text = fmt::format("{} accuracy {:.4f}", name, report.accuracy)};
}

Figures ClassifyTask::Evaluate(const TrainState& state, Progress& progress) {
  if (data_.validation().size() == 0) return {};
  return Measure(data_.validation(), "validation", state, progress);
}

Figures ClassifyTask::Conclude(const TrainState& state, Progress& progress) {
  if (!options_.classify.test) return {};
  return Measure(data_.test(), "test", state, progress);
}

void ClassifyTask::SaveModel(const std::string& folder) {
  SaveClassifier(*model_, data_.about(), folder);
}

void ClassifyTask::LoadWeights(const std::string& folder) {
  ReadWeights(model_->parameters(), folder);
}

}  // namespace ringwise
