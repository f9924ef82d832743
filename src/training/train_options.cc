#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "ringwise/corpus.h"
#include "ringwise/error.h"
#include "ringwise/trainer.h"
#include "training/classify_options.h"
#include "training/require.h"

namespace ringwise {
namespace {

constexpr int64_t kWordVocab = 10000;

void CheckSchedule(const TrainOptions& options) {
  const std::vector<ContextPhase>& schedule = options.context_schedule;
  double shares = 0;
  for (const ContextPhase& phase : schedule) {
    Require(
        (phase.share > 0) == (schedule.front().share > 0) && (phase.share > 0) != (phase.steps > 0),
        "--context-schedule: give every phase steps, or every phase a share of the time (60%)");
    shares += phase.share;
  }
  if (shares == 0) return;
  Require(
      std::abs(shares - 1) < 1e-6,
      fmt::format("--context-schedule: the shares must add up to 100%, found {:g}%", shares * 100));
  Require(options.max_seconds > 0,
          "--context-schedule: shares of the time need --max-seconds, the time");
  Require(options.steps == 0,
          "--steps and shares of the time contradict each other: leave one out");
}

void ValidateLanguage(const TrainOptions& options) {
  Require(!options.data.empty(), "--data is needed: files or folders of text to train on");
  Require(options.classify == ClassifyOptions(),
          "flags of classification need --task imdb, reuters or synthetic");
  if (!options.init.empty()) return;  // the shapes are the model's
  const ModelConfig& model = options.model;
  RequireAtLeast<int64_t>("heads", model.heads, 1);
  RequireAtLeast<int64_t>("kv-heads", model.kv_heads, 1);
  RequireAtLeast<int64_t>("window", model.window, 0);
  Require(model.heads % model.kv_heads == 0,
          fmt::format("--heads must be a multiple of --kv-heads, found {} and {}", model.heads,
                      model.kv_heads));
  Require(model.head_dim > 0 && model.head_dim % 2 == 0,
          fmt::format("--head-dim must be even, found {}; without it, it is --hidden / --heads, {} "
                      "/ {}",
                      model.head_dim, model.hidden, model.heads));
  Validate(options.model);
  Require(options.model.vocab >= kByteVocab,
          fmt::format("--vocab must be {} or more (the bytes and the separator), found {}",
                      kByteVocab, options.model.vocab));
}

// Sizes of a pass whose products stay far from what an integer holds.
void CheckPass(const TrainOptions& options, int64_t batch, int64_t context) {
  constexpr int64_t kMostSequences = 1 << 20;  // and passes
  constexpr double kMostElements = int64_t{1} << 52;
  RequireWithin<int64_t>("batch", batch, 1, kMostSequences);
  RequireWithin<int64_t>("accumulate", options.accumulate, 1, kMostSequences);
  RequireAtLeast<int64_t>("context", context, 1);
  const int64_t features = options.task == Task::kSynthetic ? options.classify.features : 1;
  const auto width = static_cast<double>(std::max(options.model.hidden, features));
  Require(static_cast<double>(batch) * static_cast<double>(context) * width <= kMostElements,
          fmt::format("--batch {} and --context {}: no machine holds such a pass", batch, context));
}

std::string Quote(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n') {
      quoted += "\\n";
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string Absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

}  // namespace

std::string_view Name(Task task) {
  switch (task) {
    case Task::kLanguage:
      return "language";
    case Task::kImdb:
      return "imdb";
    case Task::kReuters:
      return "reuters";
    case Task::kSynthetic:
      return "synthetic";
  }
  return "";
}

Task ParseTask(std::string_view name) {
  for (const Task task : {Task::kLanguage, Task::kImdb, Task::kReuters, Task::kSynthetic}) {
    if (Name(task) == name) return task;
  }
  throw UsageError(
      fmt::format("--task must be language, imdb, reuters or synthetic, found '{}'", name));
}

TrainOptions WithDefaults(TrainOptions options) {
  ModelConfig& model = options.model;
  if (model.vocab == 0) model.vocab = options.task == Task::kLanguage ? kByteVocab : kWordVocab;
  if (model.kv_heads == 0) model.kv_heads = model.heads;
  if (model.head_dim == 0 && model.heads > 0) model.head_dim = model.hidden / model.heads;
  if (model.ffn == 0) model.ffn = (model.hidden * 8 / 3 + 31) / 32 * 32;
  if (model.max_positions == 0) {
    for (const ContextPhase& phase : EffectiveSchedule(options)) {
      model.max_positions = std::max(model.max_positions, phase.context);
    }
  }
  return options;
}

void Validate(const TrainOptions& options) {
  Require(!options.out.empty() || !options.resume.empty(),
          "--out is needed: the folder to write the run to");
  RequireAtLeast<int64_t>("steps", options.steps, 0);
  CheckPass(options, options.batch, options.context);
  for (const ContextPhase& phase : options.context_schedule) {
    if (phase.batch > 0) CheckPass(options, phase.batch, phase.context);
  }
  RequireAtLeast<int64_t>("warmup", options.warmup, 0);
  RequireAtLeast<int64_t>("eval-every", options.eval_every, 0);
  RequireAtLeast<int64_t>("eval-tokens", options.eval_tokens, 0);
  RequireAtLeast<int64_t>("save-every", options.save_every, 0);
  RequireAtLeast<int64_t>("keep", options.keep, 1);
  RequireAtLeast<int64_t>("log-every", options.log_every, 1);
  Require(options.learning_rate >= 0 && std::isfinite(options.learning_rate),
          fmt::format("--learning-rate must be 0 or more, found {}", options.learning_rate));
  Require(options.learning_rate_floor >= 0 && options.learning_rate_floor <= 1,
          fmt::format("--learning-rate-floor must be in [0, 1], found {}",
                      options.learning_rate_floor));
  Require(options.beta1 >= 0 && options.beta1 < 1,
          fmt::format("--beta1 must be in [0, 1), found {}", options.beta1));
  Require(options.beta2 >= 0 && options.beta2 < 1,
          fmt::format("--beta2 must be in [0, 1), found {}", options.beta2));
  Require(options.epsilon > 0, fmt::format("--epsilon must be above 0, found {}", options.epsilon));
  RequireAtLeast("weight-decay", options.weight_decay, 0.0);
  RequireAtLeast("clip", options.clip, 0.0);
  RequireAtLeast("max-seconds", options.max_seconds, 0.0);
  Require(options.heldout_fraction >= 0 && options.heldout_fraction < 1,
          fmt::format("--heldout must be in [0, 1), found {}", options.heldout_fraction));
  RequireProbability("dropout", options.dropout);
  CheckSchedule(options);
  Require(
      options.resume.empty() || options.out.empty(),
      fmt::format("--resume {} writes to that run's own folder: leave --out out", options.resume));
  if (options.task == Task::kLanguage) {
    ValidateLanguage(options);
  } else {
    ValidateClassify(options);
  }
}

std::string ToToml(const TrainOptions& options) {
  std::string text = "# What `ringwise train` was run with; read by --resume and --config.\n";
  const auto number = [&](const char* key, auto value) {
    text += fmt::format("{} = {}\n", key, value);
  };
  const auto name = [&](const char* key, const std::string& value) {
    text += fmt::format("{} = {}\n", key, Quote(value));
  };
  std::string paths;
  for (const std::string& path : options.data) {
    if (!paths.empty()) paths += ", ";
    paths += Quote(Absolute(path));
  }
  text += fmt::format("data = [{}]\n", paths);
  if (!options.init.empty()) name("init", Absolute(options.init));
  number("ring", options.mesh.ring);
  number("data-parallel", options.mesh.data_parallel);
  number("threads", options.mesh.threads);
  number("timeout", options.mesh.timeout_seconds);
  name("layout", std::string(Name(options.layout)));
  name("dtype", std::string(Name(options.compute)));
  number("steps", options.steps);
  number("context", options.context);
  number("batch", options.batch);
  number("accumulate", options.accumulate);
  number("hidden", options.model.hidden);
  number("layers", options.model.layers);
  number("heads", options.model.heads);
  number("ffn", options.model.ffn);
  number("vocab", options.model.vocab);
  number("rope-theta", options.model.rope_theta);
  number("norm-eps", options.model.rms_norm_eps);
  number("learning-rate", options.learning_rate);
  number("learning-rate-floor", options.learning_rate_floor);
  number("warmup", options.warmup);
  number("weight-decay", options.weight_decay);
  number("beta1", options.beta1);
  number("beta2", options.beta2);
  number("epsilon", options.epsilon);
  number("clip", options.clip);
  number("dropout", options.dropout);
  number("seed", options.seed);
  number("heldout", options.heldout_fraction);
  number("eval-every", options.eval_every);
  number("save-every", options.save_every);
  number("keep", options.keep);
  number("log-every", options.log_every);
  number("max-seconds", options.max_seconds);
  if (options.task == Task::kLanguage) {
    if (!options.context_schedule.empty()) {
      name("context-schedule", FormatContextSchedule(options.context_schedule));
    }
    name("attention", std::string(Name(options.attention)));
    name("recompute", std::string(Name(options.recompute)));
    number("kv-heads", options.model.kv_heads);
    number("head-dim", options.model.head_dim);
    number("tied-embeddings", options.model.tied_embeddings);
    number("window", options.model.window);
    number("document-mask", options.document_mask);
    number("eval-tokens", options.eval_tokens);
    number("order-two", options.order_two);
    return text;
  }
  const ClassifyOptions& classify = options.classify;
  name("task", std::string(Name(options.task)));
  name("network", std::string(Name(classify.network)));
  name("norm-place", std::string(Name(classify.norm_place)));
  name("norm-over", std::string(Name(classify.norm_over)));
  number("positions", classify.positions);
  number("word-pairs", classify.word_pairs);
  number("sublayer-dropout", classify.sublayer_dropout);
  number("input-dropout", classify.input_dropout);
  number("head-dropout", classify.head_dropout);
  number("max-words", classify.rule.max_words);
  number("keep-last-words", classify.rule.keep_last);
  number("pad", classify.pad);
  number("epochs", classify.epochs);
  number("samples", classify.samples);
  number("features", classify.features);
  number("test", classify.test);
  return text;
}

}  // namespace ringwise
