#include "training/rank_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <future>
#include <numbers>
#include <numeric>

#include "ring/attention_work.h"
#include "ringwise/error.h"
#include "ringwise/evaluate.h"
#include "ringwise/model_folder.h"
#include "ringwise/random.h"
#include "training/mesh_memory.h"
#include "training/mesh_peak.h"
#include "training/run_folder.h"
#include "training/signals.h"
#include "transformer/model_mask.h"

namespace ringwise {
namespace {

// The best of many samples, taken now and then: on a shared machine the
// first may have met a busy neighbour.
constexpr double kBetweenPeaks = 10;
constexpr double kPeakSeconds = 0.05;
// Until so much was sampled, a twentieth of the time goes into it, so that short runs have many.
constexpr double kEarlyPeakSeconds = 1;
constexpr double kEarlyPeakShare = 0.05;

// Signs of life that the ranks waiting for rank 0's own work get within their --timeout.
constexpr double kSignsOfLife = 4;

// Names the use of randomness here, so that it does not repeat that of others.
constexpr uint64_t kDropoutStream = 0x64726f706f757400;

// Separate random streams for each phase's data order.
uint64_t PhaseSeed(uint64_t seed, int64_t phase) {
  return seed + 0x9E3779B97F4A7C15 * static_cast<uint64_t>(phase);
}

const char* SignalName(StopReason reason) {
  switch (reason) {
    case StopReason::kInterrupt:
      return "SIGINT";
    case StopReason::kTerminate:
      return "SIGTERM";
    case StopReason::kUser1:
      return "SIGUSR1";
    case StopReason::kMaxSeconds:
      return "--max-seconds";
    case StopReason::kFinished:
      break;
  }
  return "";
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

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

RankTrainer::RankTrainer(Rank& rank, const TrainOptions& options, const Corpus& corpus)
    : rank_(rank), options_(options), corpus_(corpus), progress_(rank.world.rank() == 0) {
  // All phases' contexts must fit the data: better said now than an hour later.
  for (const ContextPhase& phase : EffectiveSchedule(options)) {
    ContextSampler(corpus_.train().tokens(), phase.context, 0);
  }
  MakeModel();
  if (options_.resume.empty()) {
    StartFolder();
  } else {
    Resume();
  }
  rank_.world.Barrier();  // nobody trains before the folder stands
  Announce();
}

std::string RankTrainer::RunFolder() const {
  return options_.resume.empty() ? options_.out : options_.resume;
}

void RankTrainer::MakeModel() {
  ModelConfig config = options_.model;
  const std::vector<ContextPhase> phases = EffectiveSchedule(options_);
  state_.rope_reference = phases.front().context;
  if (!options_.resume.empty()) {
    const std::string checkpoint = run_folder::NewestCheckpoint(options_.resume);
    state_ = ReadTrainState(checkpoint);
    // A run started by --init has its shapes from there, which config.toml does not repeat.
    if (!options_.init.empty()) config = ReadModelConfig(checkpoint);
  } else if (!options_.init.empty()) {
    run_folder::RefuseRun(options_.init);
    config = ReadModelConfig(options_.init);
    state_.rope_reference = config.max_positions;
    if (config.vocab < kByteVocab) {
      throw UsageError(
          fmt::format("--init {}: its vocabulary of {} tokens cannot hold the {} byte "
                      "tokens",
                      options_.init, config.vocab, kByteVocab));
    }
  }
  if (options_.resume.empty()) {
    state_.rope_base = config.rope_theta;
    state_.seed = options_.seed;
    state_.train_tokens = corpus_.train().tokens();
    state_.data_fingerprint = corpus_.fingerprint();
  }
  for (const ContextPhase& phase : phases) {
    config.max_positions = std::max(config.max_positions, phase.context);
  }
  schedule_ = std::make_unique<RunSchedule>(options_, state_);
  if (options_.resume.empty() && !options_.init.empty()) {
    model_ = LoadModel(rank_.context, options_.init, options_.compute);
  } else {
    model_ = std::make_unique<Llama>(rank_.context, config, options_.compute);
    if (options_.resume.empty()) model_->Initialize(options_.seed);
  }
  model_->UseAttention(options_.attention);
  optimizer_ = std::make_unique<AdamW>(rank_.context, model_->parameters(),
                                       AdamWOptions{.beta1 = options_.beta1,
                                                    .beta2 = options_.beta2,
                                                    .epsilon = options_.epsilon,
                                                    .weight_decay = options_.weight_decay});
}

void RankTrainer::StartFolder() {
  if (!leads()) return;
  run_folder::Create(options_.out);
  lock_ = std::make_unique<RunLock>(options_.out);
  run_folder::ClearUnsaved(options_.out);
  ReplaceFile(run_folder::Config(options_.out), ToToml(options_));
}

void RankTrainer::Resume() {
  if (leads()) lock_ = std::make_unique<RunLock>(options_.resume);
  last_checkpoint_ = run_folder::NewestCheckpoint(options_.resume);
  if (state_.seed != options_.seed) {
    throw UsageError(fmt::format("--seed {} differs from the run's {}: its data order would change",
                                 options_.seed, state_.seed));
  }
  if (options_.init.empty() && state_.rope_base != options_.model.rope_theta) {
    throw UsageError(
        fmt::format("--rope-theta {} differs from the run's {}: leave it out, or start a new run "
                    "from its weights with --init {}",
                    options_.model.rope_theta, state_.rope_base, last_checkpoint_));
  }
  if (state_.train_tokens != corpus_.train().tokens() ||
      state_.data_fingerprint != corpus_.fingerprint()) {
    throw UsageError(fmt::format(
        "the data changed since the run began ({} tokens to train on then, {} now{}): start a new "
        "run from its weights with --init {}",
        state_.train_tokens, corpus_.train().tokens(),
        state_.train_tokens == corpus_.train().tokens() ? " in other files or bytes" : "",
        last_checkpoint_));
  }
  LoadCheckpoint(last_checkpoint_, *model_, *optimizer_);
  model_->ParametersChanged();
  seconds_before_ = state_.seconds;
}

void RankTrainer::OpenRecords() {
  if (!leads() || metrics_) return;
  const std::string metrics = run_folder::Metrics(RunFolder());
  if (!options_.resume.empty()) {
    CutMetrics(metrics, state_.step - 1);
    ReplaceFile(run_folder::Config(options_.resume), ToToml(options_));
  }
  metrics_ = std::make_unique<MetricsFile>(metrics);
}

void RankTrainer::Announce() {
  const ModelConfig& config = model_->config();
  int64_t count = 0;
  for (const Parameter& parameter : model_->parameters()) count += parameter.value.elements();
  progress_.Say(fmt::format("data: {} files, {:.1f} MB, {} documents to train on, {} held out{}",
                            corpus_.files(), static_cast<double>(corpus_.bytes()) / 1e6,
                            corpus_.train().documents(), corpus_.heldout().documents(),
                            Skipped(corpus_)));
  progress_.Say(fmt::format("model: {:.2f} M parameters, hidden {}, {} layers, {} heads of {}, {} "
                            "kv_heads, feed-forward {}",
                            static_cast<double>(count) / 1e6, config.hidden, config.layers,
                            config.heads, config.head_dim, config.kv_heads, config.ffn) +
                (config.window > 0 ? fmt::format(", window {}", config.window) : ""));
  progress_.Say(fmt::format("mesh: ring {}, data-parallel {}, {} threads a rank, {}, {}",
                            rank_.ring.size(), rank_.data_parallel.size(),
                            rank_.context.team.size(), Name(options_.layout),
                            Name(options_.compute)));
  if (state_.step > 0) {
    progress_.Say(fmt::format("continues {} after step {}", last_checkpoint_, state_.step));
    std::string newer;
    for (const int64_t step : run_folder::NewerCheckpoints(RunFolder(), state_.step)) {
      newer += fmt::format("{}step-{}", newer.empty() ? "" : ", ", step);
    }
    if (!newer.empty()) {
      progress_.Say(
          "newer than `latest`, from before it was moved back, and only replaced when the "
          "run gets there: " +
          newer);
    }
  }
}

double RankTrainer::SecondsHere() const { return Seconds(Clock::now() - started_); }

double RankTrainer::PhaseTheta() const {
  return RopeTheta(state_.rope_base, state_.rope_reference, phase().context,
                   model_->config().head_dim);
}

void RankTrainer::EnterPhase() {
  const bool moved = schedule_->Advance();
  if (reader_ && !moved) return;
  reader_ = std::make_unique<SequenceReader>(
      corpus_.train(), SequenceReader::Options{.context = phase().context,
                                               .seed = PhaseSeed(options_.seed, state_.phase),
                                               .layout = options_.layout,
                                               .ring_size = rank_.ring.size(),
                                               .ring_rank = rank_.ring.rank(),
                                               .hides_documents = options_.document_mask});
}

void RankTrainer::SamplePeak() {
  const double now = state_.seconds;  // the same on every rank
  const double wait =
      peak_sampled_for_ < kEarlyPeakSeconds ? kPeakSeconds / kEarlyPeakShare : kBetweenPeaks;
  if (peak_flops_ > 0 && now < peak_sampled_at_ + wait) return;
  const double seconds = peak_flops_ > 0 ? kPeakSeconds : 2 * kPeakSeconds;
  peak_flops_ = std::max(peak_flops_, MeasureMeshPeak(rank_, options_.compute, seconds));
  peak_sampled_at_ = now;
  peak_sampled_for_ += seconds;
}

void RankTrainer::SampleLastPeak(StepRecord& record) {
  const double trained = state_.seconds - seconds_before_;
  const double seconds = std::clamp(kEarlyPeakShare * trained, 2 * kPeakSeconds, kEarlyPeakSeconds);
  const double before = peak_flops_;
  peak_flops_ = std::max(peak_flops_, MeasureMeshPeak(rank_, options_.compute, seconds));
  record.mfu *= before / peak_flops_;
  record.peak_flops = peak_flops_;
}

// A function of the run's seed and the step; each layer derives its own seed from it.
Dropout RankTrainer::StepDropout(int64_t first_sequence) const {
  if (options_.dropout == 0) return {};
  return {.probability = options_.dropout,
          .seed = DeriveSeed(options_.seed, kDropoutStream + static_cast<uint64_t>(state_.step)),
          .first_batch = first_sequence};
}

double RankTrainer::VisiblePairsOf(const TokenBatch& batch) const {
  Mask mask = ModelMask(model_->config());
  mask.segments = batch.documents;
  const Positions& mine = batch.positions[static_cast<size_t>(rank_.ring.rank())];
  const Positions all = {{0, phase().context, 1}};
  return static_cast<double>(VisiblePairs(mask, batch.batch, 1, mine, all));
}

RankTrainer::StepSums RankTrainer::ForwardBackward() {
  const int64_t groups = rank_.data_parallel.size();
  const int64_t batch = phase().batch;
  const int64_t sequences = groups * batch * options_.accumulate;
  const auto gradient_scale =
      static_cast<float>(1.0 / static_cast<double>(sequences * phase().context));
  const double theta = PhaseTheta();
  StepSums sums;
  double pairs = 0;
  model_->ZeroGradients();
  for (int64_t pass = 0; pass < options_.accumulate; ++pass) {
    const int64_t first = (pass * groups + rank_.data_parallel.rank()) * batch;  // of the step's
    TokenBatch tokens = reader_->Read(state_.phase_sequences + first, batch);
    tokens.dropout = StepDropout(first);
    pairs += VisiblePairsOf(tokens);
    const LossSum loss =
        model_->ForwardBackward(rank_.ring, tokens, theta, options_.recompute, gradient_scale);
    sums.nats += loss.nats;
    sums.targets += loss.tokens;
    sums.bytes += reader_->target_bytes();
  }
  state_.phase_sequences += sequences;

  const auto caught = [](int signal) { return SignalCatcher::Caught(signal) ? 1.0 : 0.0; };
  const int64_t sent = rank_.ring.bytes_sent();
  std::vector<double> values = {sums.nats,
                                static_cast<double>(sums.targets),
                                static_cast<double>(sums.bytes),
                                static_cast<double>(sent - bytes_sent_before_),
                                leads() ? SecondsHere() : 0.0,
                                caught(SIGTERM),
                                caught(SIGINT),
                                caught(SIGUSR1)};
  const size_t shared = values.size();  // then a place for each rank's pairs
  values.resize(shared + static_cast<size_t>(rank_.world.size()));
  values[shared + static_cast<size_t>(rank_.world.rank())] = pairs;
  bytes_sent_before_ = sent;
  rank_.world.AllReduceSum(std::span<double>(values));
  sums.nats = values[0];
  sums.targets = std::llround(values[1]);
  sums.bytes = std::llround(values[2]);
  sums.bytes_sent = std::llround(values[3]);
  sums.seconds = values[4];
  const auto by_rank = std::span<const double>(values).subspan(shared);
  sums.pairs = std::accumulate(by_rank.begin(), by_rank.end(), 0.0);
  sums.attention_work = LargestOverMean(by_rank);
  if (values[7] > 0) sums.signal = StopReason::kUser1;
  if (values[6] > 0) sums.signal = StopReason::kInterrupt;
  if (values[5] > 0) sums.signal = StopReason::kTerminate;
  if (rank_.world.size() > 1) {
    for (Parameter& parameter : model_->parameters()) {
      rank_.world.AllReduceSum(std::span<float>(
          parameter.gradient.data<float>(), static_cast<size_t>(parameter.gradient.elements())));
    }
  }
  return sums;
}

void RankTrainer::CheckFinite(const StepSums& sums, double gradient_norm) const {
  const double loss = sums.nats / static_cast<double>(sums.targets);
  if (std::isfinite(loss) && std::isfinite(gradient_norm)) return;
  const char* what = std::isfinite(loss) ? "gradient norm" : "loss";
  const double value = std::isfinite(loss) ? gradient_norm : loss;
  throw Error(
      fmt::format("step {}: the {} is not finite ({}), stopped before changing any "
                  "parameter; {}; try a lower --learning-rate or a longer --warmup",
                  state_.step + 1, what, std::isnan(value) ? "NaN" : "infinite", LastGood()));
}

// After a step, before it is recorded or saved: what diverged must not take the place of what is
// good.
void RankTrainer::CheckFiniteState(const StepRecord& record) const {
  const bool evaluates = !record.heldout_loss || std::isfinite(*record.heldout_loss);
  if (evaluates && optimizer_->IsFinite()) return;
  throw Error(fmt::format(
      "step {}: {} not finite after it, so it was not saved; {}; try a lower --learning-rate or a "
      "longer --warmup",
      state_.step, evaluates ? "weights or moments are" : "the held-out loss is", LastGood()));
}

std::string RankTrainer::LastGood() const {
  return last_checkpoint_.empty() ? "no checkpoint was saved yet"
                                  : "the last good checkpoint is " + last_checkpoint_;
}

StepRecord RankTrainer::TakeStep(std::optional<StopReason>& stop) {
  EnterPhase();
  Tracer* const trace = rank_.context.trace;
  const TraceSpan step(trace, TraceKind::kPhase, "training", {{"step", state_.step + 1}});
  const auto begin = Clock::now();
  const StepSums sums = ForwardBackward();
  std::optional<TraceSpan> update;
  update.emplace(trace, TraceKind::kCompute, "optimizer");
  const double norm = optimizer_->GradientNorm();
  CheckFinite(sums, norm);
  const double rate = schedule_->LearningRate();
  const bool clips = options_.clip > 0 && norm > options_.clip;
  optimizer_->Step(state_.step + 1, rate, clips ? options_.clip / norm : 1.0);
  model_->ParametersChanged();
  update.reset();

  ++state_.step;
  ++state_.phase_step;
  state_.tokens += sums.targets;
  state_.seconds = seconds_before_ + sums.seconds;
  if (sums.signal != StopReason::kFinished) {
    stop = sums.signal;
  } else if (schedule_->Finished()) {
    stop = StopReason::kFinished;
  } else if (options_.max_seconds > 0 && sums.seconds >= options_.max_seconds) {
    stop = StopReason::kMaxSeconds;
  }

  StepRecord record;
  record.step = state_.step;
  record.loss = sums.nats / static_cast<double>(sums.targets);
  record.bits_per_byte =
      sums.nats / std::numbers::ln2 / static_cast<double>(std::max<int64_t>(1, sums.bytes));
  record.tokens = sums.targets;
  record.seconds = Seconds(Clock::now() - begin);
  record.tokens_per_second = static_cast<double>(record.tokens) / record.seconds;
  const double keys = sums.pairs / static_cast<double>(sums.targets) - 0.5;
  record.mfu = record.tokens_per_second * TrainFlopsPerToken(model_->config(), keys) / peak_flops_;
  record.peak_flops = peak_flops_;
  record.learning_rate = rate;
  record.gradient_norm = norm;
  record.context = phase().context;
  record.rope_theta = PhaseTheta();
  record.attention_work = sums.attention_work;
  record.bytes_sent = sums.bytes_sent;
  return record;
}

void RankTrainer::EvaluateHeldout(StepRecord& record) {
  if (options_.eval_tokens == 0 || corpus_.heldout().tokens() < 2) return;
  const TraceSpan span(rank_.context.trace, TraceKind::kPhase, "held-out loss");
  EvaluateOptions options;
  options.context = phase().context;
  options.layout = options_.layout;
  options.max_tokens = options_.eval_tokens;
  options.rope_theta = PhaseTheta();
  options.document_mask = options_.document_mask;
  options.progress = [&](int64_t done, int64_t in_all) {
    progress_.Note(
        fmt::format("step {}  held-out loss: {} of {} tokens", state_.step, done, in_all));
  };
  const Evaluation evaluation = Evaluate(rank_, *model_, corpus_.heldout(), options);
  record.heldout_loss = evaluation.loss;
  record.heldout_bits_per_byte = evaluation.bits_per_byte;
}

void RankTrainer::LeadAlone(const std::function<void()>& work) {
  if (rank_.world.size() == 1) {
    work();
    return;
  }
  // The work runs beside this thread, which alone may speak to the others.
  std::future<void> done;
  if (leads()) done = std::async(std::launch::async, work);
  const std::chrono::duration<double> between(options_.mesh.timeout_seconds / kSignsOfLife);
  auto working = std::byte{1};
  while (working != std::byte{0}) {
    if (leads() && done.wait_for(between) == std::future_status::ready) {
      done.get();
      working = std::byte{0};
    }
    rank_.world.Broadcast({&working, 1}, 0);
  }
}

void RankTrainer::Save() {
  const TraceSpan span(rank_.context.trace, TraceKind::kPhase, "save");
  LeadAlone([&] {
    ModelConfig config = model_->config();
    config.rope_theta = PhaseTheta();
    config.attention_dropout = options_.dropout;
    // A model from --init was trained on its own longest context too.
    config.max_positions =
        options_.init.empty() ? phase().context : std::max(state_.rope_reference, phase().context);
    SaveCheckpoint(RunFolder(), state_, *model_, config, *optimizer_, options_.keep);
  });
  last_checkpoint_ = run_folder::Checkpoint(RunFolder(), state_.step);
}

TrainResult RankTrainer::Run() {
  TrainResult result;
  model_->ZeroGradients();  // touched now, so that the first step's growth is the step's alone
  const MemoryBaseline baseline(rank_.context.meter);
  StartClock();
  if (schedule_->Finished()) {
    progress_.Say(
        fmt::format("nothing left to do: the run ended at step {}; --steps or "
                    "--max-seconds make it longer",
                    state_.step));
  }
  double smooth_seconds = 0;
  int64_t smooth_phase = -1;
  while (!schedule_->Finished()) {
    std::optional<StopReason> stop;
    SamplePeak();
    StepRecord record = TakeStep(stop);
    OpenRecords();
    smooth_seconds =
        smooth_phase == state_.phase ? 0.9 * smooth_seconds + 0.1 * record.seconds : record.seconds;
    smooth_phase = state_.phase;
    // A signal's sender is waiting: no evaluation then.
    const bool ends = stop == StopReason::kFinished || stop == StopReason::kMaxSeconds;
    if (ends || (options_.eval_every > 0 && state_.step % options_.eval_every == 0)) {
      EvaluateHeldout(record);
    }
    const bool saves = stop || (options_.save_every > 0 && state_.step % options_.save_every == 0);
    if (saves || record.heldout_loss) CheckFiniteState(record);
    record.final = ends;
    if (stop && *stop != StopReason::kFinished) record.stopped_by = SignalName(*stop);
    if (stop || state_.step % options_.log_every == 0 || record.heldout_loss) {
      record.peak_bytes = LargestPeak(rank_);
      if (ends) {
        record.growth = baseline.Growth(rank_);
        SampleLastPeak(record);
      }
      // After the growth is read: its tables are not the training's memory.
      if (ends && options_.order_two && record.heldout_loss) {
        LeadAlone([&] {
          record.heldout_order_two_bits_per_byte = OrderTwoBitsPerByte(
              corpus_.train(), corpus_.heldout(), corpus_.train().tokens(), options_.eval_tokens);
        });
      }
      if (leads()) metrics_->Append(ToJson(record));
    }
    progress_.Step(record, schedule_->total_steps(),
                   stop ? 0 : schedule_->RemainingSeconds(smooth_seconds, model_->config()));
    if (saves) Save();
    result.heldout_bits_per_byte = record.heldout_bits_per_byte;
    if (stop) {
      result.reason = *stop;
      break;
    }
  }
  result.step = state_.step;
  result.checkpoint = last_checkpoint_;
  if (result.reason == StopReason::kFinished) {
    progress_.Say(fmt::format("done: {}", result.checkpoint));
  } else {
    progress_.Say(
        fmt::format("stopped by {} after step {}; saved {}; continue with: ringwise train "
                    "--resume {}",
                    SignalName(result.reason), result.step, result.checkpoint, RunFolder()));
  }
  return result;
}

}  // namespace ringwise
