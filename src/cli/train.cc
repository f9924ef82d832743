#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/flags.h"
#include "ringwise/error.h"
#include "ringwise/trainer.h"

namespace ringwise {
namespace {

struct TrainFlags {
  TrainOptions options;
  std::string dtype = "auto";
};

template <class Value>
void Flag(CLI::App& command, const char* name, Value& value, const char* meaning,
          const char* unit) {
  CLI::Option* option = command.add_option(name, value, meaning);
  option->capture_default_str()->type_name(unit);
  option->check(NumberFor(value));
}

void AddRunFlags(CLI::App& command, TrainOptions& options) {
  command.option_defaults()->group("Run");
  command
      .add_option_function<std::string>(
          "--task", [&options](const std::string& name) { options.task = ParseTask(name); },
          "What is learnt: language (the next byte of text), or the class of documents: imdb "
          "(sentiment of reviews), reuters (topics of newswires), synthetic (sign of a sum)")
      ->default_str("language")
      ->type_name("NAME");
  command
      .add_option(
          "--data", options.data,
          "Text to train on: files, and folders read recursively; binary files are skipped. Of "
          "imdb and reuters the archive as downloaded, or its folder")
      ->type_name("PATH");
  command.add_option("--out", options.out, "Run folder to make")->type_name("DIR");
  command
      .add_option("--resume", options.resume,
                  "Continue this run from its latest checkpoint; its config.toml gives the flags "
                  "not given here")
      ->type_name("RUN");
  command
      .add_option(
          "--init", options.init,
          "Start from this model folder (Hugging Face's format), whose shapes are then used")
      ->type_name("MODEL");
  AddConfigFlag(command);
}

void AddScheduleFlags(CLI::App& command, TrainOptions& options) {
  command.option_defaults()->group("Steps and contexts");
  Flag(command, "--steps", options.steps,
       "Optimizer steps; 0: the sum of --context-schedule, or 1000; of classifiers those of "
       "--epochs",
       "N");
  AddContextFlag(command, options.context,
                 "Tokens a sequence, where no --context-schedule is given");
  Flag(command, "--batch", options.batch,
       "Sequences a pass and data-parallel rank; of the first phase of a schedule", "N");
  Flag(command, "--accumulate", options.accumulate, "Passes summed into one step", "N");
  command
      .add_option_function<std::string>(
          "--context-schedule",
          [&options](const std::string& text) {
            options.context_schedule = ParseContextSchedule(text);
          },
          "Contexts one after another, CONTEXT[xBATCH]:STEPS each, for example "
          "256x8:2000,2048:300,8192:60; with % shares of --max-seconds: 256:60%,2048:25%,8192:15%. "
          "The rotary base follows the context")
      ->type_name("PHASES");
  command.add_flag("--document-mask", options.document_mask,
                   "Documents packed in a sequence do not see each other");
  Flag(command, "--max-seconds", options.max_seconds,
       "Finish the step, save and end after so long; 0: no limit", "SECONDS");
}

void AddModelFlags(CLI::App& command, ModelConfig& model) {
  command.option_defaults()->group("Model");
  Flag(command, "--hidden", model.hidden, "Width of the model", "N");
  Flag(command, "--layers", model.layers, "Layers", "N");
  Flag(command, "--heads", model.heads, "Query heads", "N");
  Flag(command, "--kv-heads", model.kv_heads,
       "Key/value heads, a divisor of --heads; 0: as --heads", "N");
  Flag(command, "--head-dim", model.head_dim, "Width of a head, even; 0: hidden / heads", "N");
  Flag(command, "--ffn", model.ffn,
       "Width of the feed-forward; 0: 8/3 of --hidden, rounded up to a multiple of 32", "N");
  Flag(command, "--vocab", model.vocab,
       "Tokens: 256 bytes, the document separator, and spare ones; of classifiers, the most "
       "frequent "
       "words. 0: 257, of classifiers 10000",
       "N");
  Flag(command, "--rope-theta", model.rope_theta,
       "Rotary base of the first phase's context; longer contexts raise it", "X");
  Flag(command, "--norm-eps", model.rms_norm_eps, "Epsilon of the RMS norms", "X");
  command.add_flag("--tied-embeddings", model.tied_embeddings,
                   "Use the embedding as the output head too");
  Flag(command, "--window", model.window,
       "Tokens that one sees: itself and the N - 1 before; 0: all before", "N");
}

void AddClassifyFlags(CLI::App& command, TrainOptions& options) {
  ClassifyOptions& classify = options.classify;
  command.option_defaults()->group("Classification (--task imdb, reuters, synthetic)");
  const auto choice = [&](const char* name, auto parse, auto& value, const char* meaning) {
    command
        .add_option_function<std::string>(
            name, [parse, &value](const std::string& text) { value = parse(text); }, meaning)
        ->default_str(std::string(Name(value)))
        ->type_name("NAME");
  };
  choice("--network", ParseNetwork, classify.network,
         "encoder (attention and feed-forward), or words_seen (fully connected, on which words a "
         "document has)");
  choice("--norm-place", ParseNormPlace, classify.norm_place,
         "Layer norms after each residual sum, or before each sublayer: after, before");
  choice("--norm-over", ParseNormOver, classify.norm_over,
         "What they normalise: width (of each position), or document (--task synthetic)");
  command.add_flag("--positions", classify.positions, "Rotary embedding; else words have no order");
  Flag(command, "--word-pairs", classify.word_pairs,
       "Embeddings of pairs of neighbouring words, which share so many rows by their hash; 0: none",
       "N");
  Flag(command, "--sublayer-dropout", classify.sublayer_dropout,
       "Share dropped in training of what attention and feed-forward add, in [0, 1)", "P");
  Flag(command, "--input-dropout", classify.input_dropout, "The same of the embedded words", "P");
  Flag(command, "--head-dropout", classify.head_dropout, "The same of the mean over a document",
       "P");
  Flag(command, "--max-words", classify.rule.max_words, "Words read of a document; 0: all", "N");
  command.add_flag("--keep-last-words", classify.rule.keep_last,
                   "Of longer documents the last words are read, not the first");
  command.add_flag("--pad", classify.pad,
                   "Pad every document to the longest and compute that too, to compare");
  Flag(command, "--epochs", classify.epochs, "Times each document is seen, where no --steps", "X");
  Flag(command, "--samples", classify.samples, "Synthetic samples an epoch; none comes twice", "N");
  Flag(command, "--features", classify.features,
       "Width of a synthetic sample, which has --context rows", "N");
  command.add_flag("--test", classify.test, "At the end, also accuracy on the test documents");
}

void AddOptimizerFlags(CLI::App& command, TrainOptions& options) {
  command.option_defaults()->group("Optimizer");
  Flag(command, "--learning-rate", options.learning_rate, "Peak learning rate", "X");
  Flag(command, "--learning-rate-floor", options.learning_rate_floor,
       "Rate at the end of the cosine, as a fraction of the peak", "X");
  Flag(command, "--warmup", options.warmup, "Steps of linear warm-up", "N");
  Flag(command, "--weight-decay", options.weight_decay, "Decoupled decay of matrices", "X");
  Flag(command, "--beta1", options.beta1, "AdamW's memory of the gradient", "X");
  Flag(command, "--beta2", options.beta2, "AdamW's memory of its square", "X");
  Flag(command, "--epsilon", options.epsilon, "AdamW's floor of the divisor", "X");
  Flag(command, "--clip", options.clip, "Largest global norm of the gradient; 0: not clipped", "X");
  Flag(command, "--dropout", options.dropout,
       "Share of attention's probabilities dropped in training, in [0, 1)", "P");
}

void AddKeepingFlags(CLI::App& command, TrainOptions& options) {
  command.option_defaults()->group("Evaluation, checkpoints, records");
  Flag(command, "--heldout", options.heldout_fraction, "Fraction of the documents held out", "X");
  Flag(command, "--eval-every", options.eval_every,
       "Steps between held-out losses; 0: at the end alone", "N");
  Flag(command, "--eval-tokens", options.eval_tokens,
       "Held-out tokens of an evaluation at most; 0: none", "N");
  command.add_flag("--order-two", options.order_two,
                   "At the end, also report an order-2 byte model of the same text, to compare");
  Flag(command, "--save-every", options.save_every,
       "Steps between checkpoints; 0: at the end alone", "N");
  Flag(command, "--keep", options.keep, "Checkpoints kept, the newest", "K");
  Flag(command, "--log-every", options.log_every, "Steps between records of metrics.jsonl", "N");
}

int ExitCode(StopReason reason) {
  switch (reason) {
    case StopReason::kInterrupt:
      return 130;
    case StopReason::kTerminate:
      return 143;
    case StopReason::kFinished:
    case StopReason::kMaxSeconds:
    case StopReason::kUser1:
      return 0;
  }
  return 0;
}

}  // namespace

void AddTrain(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "train", "Train or fine-tune a model of text, or train a classifier; writes a run folder");
  const auto flags = std::make_shared<TrainFlags>();
  TrainOptions& options = flags->options;
  AddRunFlags(*command, options);
  AddScheduleFlags(*command, options);
  AddModelFlags(*command, options.model);
  AddClassifyFlags(*command, options);
  AddOptimizerFlags(*command, options);
  AddKeepingFlags(*command, options);
  command->option_defaults()->group("Mesh and computation");
  AddMeshFlags(*command, options.mesh);
  AddTraceFlag(*command, options.mesh);
  AddLayoutFlag(*command, options.layout);
  command
      ->add_option_function<std::string>(
          "--attention",
          [&options](const std::string& name) { options.attention = ParseAttentionDesign(name); },
          "Design of the layers, from most memory to least: vanilla, memory_efficient, blockwise "
          "(these on one rank), ring")
      ->default_str("ring")
      ->type_name("NAME");
  AddDTypeFlag(*command, flags->dtype);
  AddRecomputeFlag(*command, options.recompute);
  AddSeedFlag(*command, options.seed, "Of the weights, the data order and the held-out split");
  command->callback([flags] {
    flags->options.compute = ResolveDType(flags->dtype);
    const TrainResult result = Train(flags->options);
    const int code = ExitCode(result.reason);
    if (code != 0) throw ExitWith{code};
  });
}

}  // namespace ringwise
