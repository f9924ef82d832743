#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/eval_classifier.h"
#include "cli/flags.h"
#include "core/out_of_memory.h"
#include "ringwise/classify.h"
#include "ringwise/corpus.h"
#include "ringwise/error.h"
#include "ringwise/evaluate.h"
#include "ringwise/model_folder.h"

namespace ringwise {
namespace {

struct EvalFlags {
  std::string model;
  std::vector<std::string> data;
  int64_t context = 0;
  int64_t max_tokens = 0;
  double heldout = 0;
  bool document_mask = false;
  std::string split = "test";
  int64_t samples = 4000;  // as many as `train` tests on
  uint64_t seed = 0;
  Layout layout = Layout::kZigzag;
  std::string dtype = "auto";
  MeshOptions mesh;
  bool json = false;
};

void Report(const EvalFlags& flags, int64_t context, const Evaluation& evaluation) {
  if (flags.json) {
    const nlohmann::ordered_json record = {{"loss", evaluation.loss},
                                           {"bits_per_byte", evaluation.bits_per_byte},
                                           {"tokens", evaluation.tokens},
                                           {"bytes", evaluation.bytes},
                                           {"context", context}};
    fmt::print("{}\n", record.dump());
  } else {
    fmt::print(stderr, "{:.4f} bits per byte, loss {:.4f} nats a token, {} tokens at context {}\n",
               evaluation.bits_per_byte, evaluation.loss, evaluation.tokens, context);
  }
}

void EvalLanguageModel(const EvalFlags& flags) {
  const bool interactive = isatty(fileno(stderr)) != 0;
  std::mutex mutex;
  std::unique_ptr<Corpus> corpus;  // listed once for all ranks of this process
  const auto evaluate = [&](Rank& rank) {
    const auto model = LoadModel(rank.context, flags.model, ResolveDType(flags.dtype));
    {
      const std::lock_guard lock(mutex);
      if (!corpus) {
        corpus = std::make_unique<Corpus>(CorpusOptions{
            .paths = flags.data, .heldout_fraction = flags.heldout, .seed = flags.seed});
      }
    }
    EvaluateOptions options;
    options.context = flags.context > 0 ? flags.context : model->config().max_positions;
    options.layout = flags.layout;
    options.document_mask = flags.document_mask;
    if (flags.max_tokens > 0) options.max_tokens = flags.max_tokens;
    if (interactive) {
      options.progress = [](int64_t done, int64_t in_all) {
        fmt::print(stderr, "\r{} of {} tokens{}", done, in_all, done == in_all ? "\r\033[K" : "");
        std::fflush(stderr);
      };
    }
    const TokenStream& stream = flags.heldout > 0 ? corpus->heldout() : corpus->train();
    const Evaluation evaluation = Evaluate(rank, *model, stream, options);
    if (!std::isfinite(evaluation.loss)) {
      throw Error(
          fmt::format("{}: the loss is {}, not finite: the model's weights are broken, or "
                      "overflow in {}; try --dtype f32",
                      flags.model, evaluation.loss, flags.dtype));
    }
    if (rank.world.rank() == 0) Report(flags, options.context, evaluation);
  };
  Launch(flags.mesh, [&](Rank& rank) {
    ExplainOutOfMemory("use more hosts, or a shorter --context", [&] { evaluate(rank); });
  });
}

void RunEval(const CLI::App& command, const EvalFlags& flags) {
  const bool classifier = IsClassifier(flags.model);
  const auto refuse = [&](std::initializer_list<const char*> others) {
    for (const char* name : others) {
      if (command.get_option(name)->count() == 0) continue;
      throw UsageError(fmt::format("{}: {} holds {}", name, flags.model,
                                   classifier ? "a classifier, the flag is of language models"
                                              : "a language model, the flag is of classifiers"));
    }
  };
  if (classifier) {
    refuse({"--context", "--max-tokens", "--heldout", "--document-mask"});
    EvalClassifier({.model = flags.model,
                    .data = flags.data,
                    .split = flags.split,
                    .samples = flags.samples,
                    .seed = flags.seed,
                    .layout = flags.layout,
                    .dtype = flags.dtype,
                    .mesh = flags.mesh,
                    .json = flags.json});
    return;
  }
  refuse({"--split", "--samples"});
  if (flags.data.empty()) throw UsageError("--data is needed: files or folders of text");
  EvalLanguageModel(flags);
}

}  // namespace

void AddEval(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "eval", "How good a model is: loss and bits per byte on text, or a classifier's accuracy");
  const auto flags = std::make_shared<EvalFlags>();
  command->option_defaults()->group("Model and data");
  command->add_option("--model", flags->model, "Model folder (config.json, model.safetensors)")
      ->type_name("DIR")
      ->required();
  command
      ->add_option("--data", flags->data,
                   "Text: files, and folders read recursively. All of it is used, unless "
                   "--heldout. Of a classifier its data set's folder or archive, one path")
      ->type_name("PATH");
  AddSeedFlag(*command, flags->seed,
              "Seed of the split that --heldout repeats, or of fresh samples");
  AddConfigFlag(*command);
  command->option_defaults()->group("Language models");
  command
      ->add_option("--heldout", flags->heldout,
                   "Use only this fraction of the documents: those that `train` holds out of the "
                   "same data with the same fraction and seed; 0: all")
      ->capture_default_str()
      ->type_name("FRACTION");
  AddContextFlag(*command, flags->context,
                 "Tokens a window; a window sees nothing before itself. Default: the longest that "
                 "the model was trained on");
  command->add_option("--max-tokens", flags->max_tokens, "Stop after so many tokens; 0: no limit")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(flags->max_tokens))
      ->check(AtLeastZero());
  command->add_flag("--document-mask", flags->document_mask,
                    "Documents in one window do not see each other, as in `train`");
  command->option_defaults()->group("Classifiers");
  command
      ->add_option("--split", flags->split,
                   "Documents of the data set: test, or train (those for validation among them)")
      ->capture_default_str()
      ->type_name("NAME")
      ->check(CLI::IsMember({"test", "train"}).description(""));
  command
      ->add_option("--samples", flags->samples,
                   "Fresh samples of the synthetic task, which no training sees")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(flags->samples))
      ->check(AboveZero());
  command->option_defaults()->group("Mesh and computation");
  AddMeshFlags(*command, flags->mesh);
  AddLayoutFlag(*command, flags->layout);
  AddDTypeFlag(*command, flags->dtype);
  AddJsonFlag(*command, flags->json);
  command->callback([command, flags] { RunEval(*command, *flags); });
}

}  // namespace ringwise
