#include "training/rank_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <variant>

#include "ringwise/error.h"
#include "training/checkpoint.h"
#include "training/lead_alone.h"
#include "training/mesh_memory.h"
#include "training/run_folder.h"
#include "training/signals.h"

namespace ringwise {
namespace {

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

bool IsFinite(const Figures& figures) {
  return std::ranges::all_of(figures.values, [](const Figure& figure) {
    return std::visit([](auto number) { return std::isfinite(static_cast<double>(number)); },
                      figure.value);
  });
}

}  // namespace

RankTrainer::RankTrainer(Rank& rank, const TrainOptions& options, std::unique_ptr<TrainTask> task)
    : rank_(rank),
      options_(options),
      task_(std::move(task)),
      peak_(rank, options.compute),
      progress_(rank.world.rank() == 0) {
  if (options_.resume.empty()) {
    state_.seed = options_.seed;
    task_->Begin(state_);
  } else {
    OpenCheckpoint();
  }
  schedule_ = std::make_unique<RunSchedule>(options_, task_->Schedule(), state_);
  optimizer_ = std::make_unique<AdamW>(rank_.context, task_->parameters(),
                                       AdamWOptions{.beta1 = options_.beta1,
                                                    .beta2 = options_.beta2,
                                                    .epsilon = options_.epsilon,
                                                    .weight_decay = options_.weight_decay});
  if (options_.resume.empty()) {
    StartFolder();
  } else {
    LoadCheckpoint(last_checkpoint_, *task_, *optimizer_);
    task_->ParametersChanged();
  }
  rank_.world.Barrier();  // nobody trains before the folder stands
  Announce();
}

std::string RankTrainer::RunFolder() const {
  return options_.resume.empty() ? options_.out : options_.resume;
}

void RankTrainer::StartFolder() {
  if (!leads()) return;
  run_folder::Create(options_.out);
  lock_ = std::make_unique<RunLock>(options_.out);
  run_folder::ClearUnsaved(options_.out);
  ReplaceFile(run_folder::Config(options_.out), ToToml(options_));
}

void RankTrainer::OpenCheckpoint() {
  last_checkpoint_ = run_folder::NewestCheckpoint(options_.resume);
  state_ = ReadTrainState(last_checkpoint_);
  if (leads()) lock_ = std::make_unique<RunLock>(options_.resume);
  if (state_.seed != options_.seed) {
    throw UsageError(fmt::format("--seed {} differs from the run's {}: its data order would change",
                                 options_.seed, state_.seed));
  }
  task_->Resume(state_, last_checkpoint_);
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
  for (const std::string& line : task_->Describe()) progress_.Say(line);
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

void RankTrainer::EnterPhase() {
  const bool moved = schedule_->Advance();
  if (in_phase_ && !moved) return;
  task_->BeginPhase(schedule_->phase(), state_);
  in_phase_ = true;
}

StepSums RankTrainer::ForwardBackward() {
  task_->ZeroGradients();
  const TaskSums mine = task_->ForwardBackward(state_);
  const int64_t sent = rank_.ring.bytes_sent();
  const StepSums sums = SumOverRanks(rank_, mine, sent - bytes_sent_before_, SecondsHere());
  bytes_sent_before_ = sent;
  SumGradients(rank_, task_->parameters());
  return sums;
}

void RankTrainer::SampleLastPeak(StepRecord& record) {
  const double before = peak_.flops();
  peak_.SampleLast(state_.seconds - seconds_before_);
  record.mfu *= before / peak_.flops();
  record.peak_flops = peak_.flops();
}

void RankTrainer::CheckFinite(const StepSums& sums, double gradient_norm) const {
  const double loss = sums.task.nats / static_cast<double>(sums.task.targets);
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
  const bool evaluates = IsFinite(record.evaluation);
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
  task_->ParametersChanged();
  update.reset();

  ++state_.step;
  ++state_.phase_step;
  state_.tokens += sums.task.tokens;
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
  record.loss = sums.task.nats / static_cast<double>(sums.task.targets);
  record.tokens = sums.task.tokens;
  record.seconds = Seconds(Clock::now() - begin);
  record.task = task_->Report(sums.task, record.seconds);
  record.tokens_per_second = static_cast<double>(record.tokens) / record.seconds;
  record.peak_flops = peak_.flops();
  record.mfu = task_->StepFlops(sums.task) / record.seconds / record.peak_flops;
  record.learning_rate = rate;
  record.gradient_norm = norm;
  record.attention_work = sums.attention_work;
  record.bytes_sent = sums.bytes_sent;
  return record;
}

void RankTrainer::Save() {
  const TraceSpan span(rank_.context.trace, TraceKind::kPhase, "save");
  LeadAlone(rank_, options_.mesh.timeout_seconds,
            [&] { SaveCheckpoint(RunFolder(), state_, *task_, *optimizer_, options_.keep); });
  last_checkpoint_ = run_folder::Checkpoint(RunFolder(), state_.step);
}

TrainResult RankTrainer::Run() {
  TrainResult result;
  task_->ZeroGradients();  // touched now, so that the first step's growth is the step's alone
  const MemoryBaseline baseline(rank_.context.meter);
  StartClock();
  if (schedule_->Finished()) {
    progress_.Say(
        fmt::format("nothing left to do: the run ended at step {}; --steps or "
                    "--max-seconds make it longer",
                    state_.step));
  }
  const auto step_cost = [&](const ContextPhase& phase) { return task_->StepCost(phase); };
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
      record.evaluation = task_->Evaluate(state_, progress_);
    }
    const bool saves = stop || (options_.save_every > 0 && state_.step % options_.save_every == 0);
    const bool evaluated = !record.evaluation.values.empty();
    if (saves || evaluated) CheckFiniteState(record);
    record.final = ends;
    if (stop && *stop != StopReason::kFinished) record.stopped_by = Name(*stop);
    if (stop || state_.step % options_.log_every == 0 || evaluated) {
      record.peak_bytes = LargestPeak(rank_);
      if (ends) {
        record.growth = baseline.Growth(rank_);
        SampleLastPeak(record);
        // After the growth is read: its memory is not the training's.
        record.conclusion = task_->Conclude(state_, progress_);
      }
      if (leads()) metrics_->Append(ToJson(record));
    }
    progress_.Step(record, schedule_->total_steps(),
                   stop ? 0 : schedule_->RemainingSeconds(smooth_seconds, step_cost));
    if (saves) Save();
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
                    Name(result.reason), result.step, result.checkpoint, RunFolder()));
  }
  return result;
}

}  // namespace ringwise
