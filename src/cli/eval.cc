#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/flags.h"
#include "core/out_of_memory.h"
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

void RunEval(const EvalFlags& flags) {
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

}  // namespace

void AddEval(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("eval", "Loss and bits per byte of a model on text, at a context length");
  const auto flags = std::make_shared<EvalFlags>();
  command->add_option("--model", flags->model, "Model folder (config.json, model.safetensors)")
      ->type_name("DIR")
      ->required();
  command
      ->add_option("--data", flags->data,
                   "Text: files, and folders read recursively. All of it is used, unless --heldout")
      ->type_name("PATH")
      ->required();
  command
      ->add_option("--heldout", flags->heldout,
                   "Use only this fraction of the documents: those that `train` holds out of the "
                   "same data with the same fraction and seed; 0: all")
      ->capture_default_str()
      ->type_name("FRACTION");
  AddSeedFlag(*command, flags->seed, "Seed of the split that --heldout repeats");
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
  AddMeshFlags(*command, flags->mesh);
  AddLayoutFlag(*command, flags->layout);
  AddDTypeFlag(*command, flags->dtype);
  AddJsonFlag(*command, flags->json);
  AddConfigFlag(*command);
  command->callback([flags] { RunEval(*flags); });
}

}  // namespace ringwise
