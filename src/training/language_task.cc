#include "training/language_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <numbers>

#include "ring/attention_work.h"
#include "ringwise/error.h"
#include "ringwise/evaluate.h"
#include "ringwise/model_folder.h"
#include "ringwise/random.h"
#include "training/lead_alone.h"
#include "training/run_folder.h"
#include "transformer/model_mask.h"

namespace ringwise {
namespace {

// Names the use of randomness here, so that it does not repeat that of others.
constexpr uint64_t kDropoutStream = 0x64726f706f757400;

// Separate random streams for each phase's data order.
uint64_t PhaseSeed(uint64_t seed, int64_t phase) {
  return seed + 0x9E3779B97F4A7C15 * static_cast<uint64_t>(phase);
}

// ", 2 binary and 1 unreadable files skipped", or nothing.
std::string Skipped(const Corpus& corpus) {
  const int64_t binary = corpus.binary_files_skipped();
  const int64_t unreadable = corpus.unreadable_files_skipped();
  if (binary + unreadable == 0) return "";
  if (unreadable == 0) return fmt::format(", {} binary files skipped", binary);
  if (binary == 0) return fmt::format(", {} unreadable files skipped", unreadable);
  return fmt::format(", {} binary and {} unreadable files skipped", binary, unreadable);
}

}  // namespace

LanguageTask::LanguageTask(Rank& rank, const TrainOptions& options, const Corpus& corpus)
    : rank_(rank), options_(options), corpus_(corpus) {
  // All phases' contexts must fit the data: better said now than an hour later.
  for (const ContextPhase& phase : Schedule()) {
    ContextSampler(corpus_.train().tokens(), phase.context, 0);
  }
}

std::vector<ContextPhase> LanguageTask::Schedule() const { return EffectiveSchedule(options_); }

double LanguageTask::StepCost(const ContextPhase& phase) const {
  const ModelConfig& config = model_->config();
  return static_cast<double>(phase.batch * phase.context) *
         TrainFlopsPerToken(config, MeanKeys(config, phase.context));
}

void LanguageTask::SetRope(const TrainState& state) {
  rope_base_ = state.rope_base;
  rope_reference_ = state.rope_reference;
}

ModelConfig LanguageTask::WithPositions(ModelConfig config) const {
  for (const ContextPhase& phase : Schedule()) {
    config.max_positions = std::max(config.max_positions, phase.context);
  }
  return config;
}

void LanguageTask::Begin(TrainState& state) {
  ModelConfig config = options_.model;
  state.rope_reference = Schedule().front().context;
  if (!options_.init.empty()) {
    run_folder::RefuseRun(options_.init);
    config = ReadModelConfig(options_.init);
    state.rope_reference = config.max_positions;
    if (config.vocab < kByteVocab) {
      throw UsageError(
          fmt::format("--init {}: its vocabulary of {} tokens cannot hold the {} byte "
                      "tokens",
                      options_.init, config.vocab, kByteVocab));
    }
  }
  state.rope_base = config.rope_theta;
  state.train_tokens = corpus_.train().tokens();
  state.data_fingerprint = corpus_.fingerprint();
  SetRope(state);
  if (!options_.init.empty()) {
    model_ = LoadModel(rank_.context, options_.init, options_.compute);
  } else {
    model_ = std::make_unique<Llama>(rank_.context, WithPositions(config), options_.compute);
    model_->Initialize(options_.seed);
  }
  model_->UseAttention(options_.attention);
}

void LanguageTask::Resume(const TrainState& state, const std::string& checkpoint) {
  if (options_.init.empty() && state.rope_base != options_.model.rope_theta) {
    throw UsageError(
        fmt::format("--rope-theta {} differs from the run's {}: leave it out, or start a new run "
                    "from its weights with --init {}",
                    options_.model.rope_theta, state.rope_base, checkpoint));
  }
  if (state.train_tokens != corpus_.train().tokens() ||
      state.data_fingerprint != corpus_.fingerprint()) {
    throw UsageError(fmt::format(
        "the data changed since the run began ({} tokens to train on then, {} now{}): start a new "
        "run from its weights with --init {}",
        state.train_tokens, corpus_.train().tokens(),
        state.train_tokens == corpus_.train().tokens() ? " in other files or bytes" : "",
        checkpoint));
  }
  SetRope(state);
  // A run started by --init has its shapes from there, which config.toml does not repeat.
  const ModelConfig config = options_.init.empty() ? options_.model : ReadModelConfig(checkpoint);
  model_ = std::make_unique<Llama>(rank_.context, WithPositions(config), options_.compute);
  model_->UseAttention(options_.attention);
}

std::vector<std::string> LanguageTask::Describe() {
  const ModelConfig& config = model_->config();
  int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.value.elements();
  return {fmt::format("data: {} files, {:.1f} MB, {} documents to train on, {} held out{}",
                      corpus_.files(), static_cast<double>(corpus_.bytes()) / 1e6,
                      corpus_.train().documents(), corpus_.heldout().documents(), Skipped(corpus_)),
          fmt::format("model: {:.2f} M parameters, hidden {}, {} layers, {} heads of {}, {} "
                      "kv_heads, feed-forward {}",
                      static_cast<double>(count) / 1e6, config.hidden, config.layers, config.heads,
                      config.head_dim, config.kv_heads, config.ffn) +
              (config.window > 0 ? fmt::format(", window {}", config.window) : "")};
}

void LanguageTask::BeginPhase(const ContextPhase& phase, const TrainState& state) {
  phase_ = phase;
  rope_theta_ = RopeTheta(rope_base_, rope_reference_, phase.context, model_->config().head_dim);
  reader_ = std::make_unique<SequenceReader>(
      corpus_.train(), SequenceReader::Options{.context = phase.context,
                                               .seed = PhaseSeed(options_.seed, state.phase),
                                               .layout = options_.layout,
                                               .ring_size = rank_.ring.size(),
                                               .ring_rank = rank_.ring.rank(),
                                               .hides_documents = options_.document_mask});
}

// A function of the run's seed and the step; each layer derives its own seed from it.
Dropout LanguageTask::StepDropout(const TrainState& state, int64_t first_sequence) const {
  if (options_.dropout == 0) return {};
  return {.probability = options_.dropout,
          .seed = DeriveSeed(options_.seed, kDropoutStream + static_cast<uint64_t>(state.step)),
          .first_batch = first_sequence};
}

double LanguageTask::VisiblePairsOf(const TokenBatch& batch) const {
  Mask mask = ModelMask(model_->config());
  mask.segments = batch.documents;
  const Positions& mine = batch.positions[static_cast<size_t>(rank_.ring.rank())];
  const Positions all = {{0, phase_.context, 1}};
  return static_cast<double>(VisiblePairs(mask, batch.batch, 1, mine, all));
}

TaskSums LanguageTask::ForwardBackward(TrainState& state) {
  const int64_t groups = rank_.data_parallel.size();
  const int64_t batch = phase_.batch;
  const int64_t sequences = groups * batch * options_.accumulate;
  const auto gradient_scale =
      static_cast<float>(1.0 / static_cast<double>(sequences * phase_.context));
  TaskSums sums;
  for (int64_t pass = 0; pass < options_.accumulate; ++pass) {
    const int64_t first = (pass * groups + rank_.data_parallel.rank()) * batch;  // of the step's
    TokenBatch tokens = reader_->Read(state.phase_sequences + first, batch);
    tokens.dropout = StepDropout(state, first);
    sums.pairs += VisiblePairsOf(tokens);
    const LossSum loss = model_->ForwardBackward(rank_.ring, tokens, rope_theta_,
                                                 options_.recompute, gradient_scale);
    sums.nats += loss.nats;
    sums.targets += loss.tokens;
    sums.bytes += reader_->target_bytes();
  }
  sums.tokens = sums.targets;
  state.phase_sequences += sequences;
  return sums;
}

double LanguageTask::StepFlops(const TaskSums& sums) const {
  const auto tokens = static_cast<double>(sums.tokens);
  return tokens * TrainFlopsPerToken(model_->config(), sums.pairs / tokens - 0.5);
}

Figures LanguageTask::Report(const TaskSums& sums, double /*seconds*/) const {
  const double bits_per_byte =
      sums.nats / std::numbers::ln2 / static_cast<double>(std::max<int64_t>(1, sums.bytes));
  return {.values = {{"bits_per_byte", bits_per_byte},
                     {"context", phase_.context},
                     {"rope_theta", rope_theta_}},
          .text = fmt::format("context {}  {:.3f} bits/byte", phase_.context, bits_per_byte)};
}

bool LanguageTask::Evaluates() const {
  return options_.eval_tokens > 0 && corpus_.heldout().tokens() >= 2;
}

Figures LanguageTask::Evaluate(const TrainState& state, Progress& progress) {
  if (!Evaluates()) return {};
  const TraceSpan span(rank_.context.trace, TraceKind::kPhase, "held-out loss");
  EvaluateOptions options;
  options.context = phase_.context;
  options.layout = options_.layout;
  options.max_tokens = options_.eval_tokens;
  options.rope_theta = rope_theta_;
  options.document_mask = options_.document_mask;
  options.progress = [&](int64_t done, int64_t in_all) {
    progress.Note(fmt::format("step {}  held-out loss: {} of {} tokens", state.step, done, in_all));
  };
  const Evaluation evaluation = ringwise::Evaluate(rank_, *model_, corpus_.heldout(), options);
  return {.values = {{"heldout_loss", evaluation.loss},
                     {"heldout_bits_per_byte", evaluation.bits_per_byte}},
          .text = fmt::format("held-out {:.3f} bits/byte", evaluation.bits_per_byte)};
}

Figures LanguageTask::Conclude(const TrainState&, Progress&) {
  if (!options_.order_two || !Evaluates()) return {};
  double bits_per_byte = 0;  // on rank 0, which alone records it
  LeadAlone(rank_, options_.mesh.timeout_seconds, [&] {
    bits_per_byte = OrderTwoBitsPerByte(corpus_.train(), corpus_.heldout(),
                                        corpus_.train().tokens(), options_.eval_tokens);
  });
  return {.values = {{"heldout_order_two_bits_per_byte", bits_per_byte}}, .text = ""};
}

void LanguageTask::SaveModel(const std::string& folder) {
  ModelConfig config = model_->config();
  config.rope_theta = rope_theta_;
  config.attention_dropout = options_.dropout;
  // A model from --init was trained on its own longest context too.
  config.max_positions =
      options_.init.empty() ? phase_.context : std::max(rope_reference_, phase_.context);
  ringwise::SaveModel(*model_, config, folder);
}

void LanguageTask::LoadWeights(const std::string& folder) {
  ringwise::LoadWeights(*model_, folder);
}

LanguageData::LanguageData(const TrainOptions& options)
    : corpus_(CorpusOptions{.paths = options.data,
                            .heldout_fraction = options.heldout_fraction,
                            .seed = options.seed}) {}

std::unique_ptr<TrainTask> LanguageData::MakeTask(Rank& rank, const TrainOptions& options) const {
  return std::make_unique<LanguageTask>(rank, options, corpus_);
}

}  // namespace ringwise
