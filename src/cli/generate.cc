#include "ringwise/generate.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/flags.h"
#include "core/out_of_memory.h"
#include "ringwise/corpus.h"
#include "ringwise/error.h"
#include "ringwise/model_folder.h"

namespace ringwise {
namespace {

struct GenerateFlags {
  std::string model;
  std::string prompt;
  std::optional<std::string> prompt_file;
  GenerateOptions options;
  std::string dtype = "auto";
  MeshOptions mesh;
};

void WarnOfLength(const ModelConfig& config, int64_t tokens) {
  if (tokens <= config.max_positions) return;
  fmt::print(stderr,
             "ringwise: prompt and new tokens reach {} tokens, the model was trained on {}: expect "
             "worse text beyond\n",
             tokens, config.max_positions);
}

double PerSecond(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

void RunGenerate(const GenerateFlags& flags) {
  const auto generate = [&](Rank& rank) {
    const bool leads = rank.world.rank() == 0;
    GenerateOptions options = flags.options;
    options.stop_token = kSeparatorToken;
    options.compute = ResolveDType(flags.dtype);
    const auto model = LoadModel(rank.context, flags.model, options.compute);
    const ModelConfig& config = model->config();
    if (config.vocab < kByteVocab) {
      throw UsageError(fmt::format(
          "{}: a vocabulary of {}, text read as bytes needs at least {}: was it trained on bytes?",
          flags.model, config.vocab, kByteVocab));
    }
    const std::vector<int32_t> prompt =
        flags.prompt_file ? ReadByteTokens(*flags.prompt_file) : ByteTokens(flags.prompt);
    if (leads) WarnOfLength(config, static_cast<int64_t>(prompt.size()) + options.max_tokens);
    const GenerateFigures figures = Generate(rank, *model, prompt, options, [](int32_t token) {
      if (token > 255) return;  // of a larger vocabulary, and no byte
      // Flushed, so that the text appears as it is made.
      if (std::fputc(token, stdout) == EOF || std::fflush(stdout) != 0) ThrowStdoutFailed();
    });
    if (!leads) return;
    fmt::print(stderr, "\nprompt: {} tokens, {:.1f} tokens/s; new: {} tokens, {:.1f} tokens/s\n",
               figures.prompt_tokens, PerSecond(figures.prompt_tokens, figures.prompt_seconds),
               figures.new_tokens, PerSecond(figures.new_tokens, figures.decode_seconds));
  };
  Launch(flags.mesh, [&](Rank& rank) {
    ExplainOutOfMemory("use more hosts, a shorter prompt or fewer --max-tokens",
                       [&] { generate(rank); });
  });
}

}  // namespace

void AddGenerate(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "generate", "Continue a text: prefill around the ring, then tokens as they come");
  const auto flags = std::make_shared<GenerateFlags>();
  GenerateOptions& options = flags->options;
  command->add_option("--model", flags->model, "Model folder (config.json, model.safetensors)")
      ->type_name("DIR")
      ->required();
  CLI::Option* prompt =
      command->add_option("--prompt", flags->prompt, "The text to continue")->type_name("TEXT");
  CLI::Option* file =
      command->add_option("--prompt-file", flags->prompt_file, "File with the text to continue")
          ->type_name("FILE")
          ->excludes(prompt);
  command->add_option("--max-tokens", options.max_tokens, "New tokens (bytes) at most")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(options.max_tokens))
      ->check(AtLeastZero());
  command
      ->add_option("--temperature", options.temperature,
                   "Divides the logits; 0: always the likeliest token")
      ->capture_default_str()
      ->type_name("X")
      ->check(NumberFor(options.temperature))
      ->check(AtLeastZero());
  command->add_option("--top-k", options.top_k, "Sample among the N likeliest tokens; 0: all")
      ->capture_default_str()
      ->type_name("N")
      ->check(NumberFor(options.top_k))
      ->check(AtLeastZero());
  AddSeedFlag(*command, options.seed, "Seed of the sampling: the same text for any ring");
  AddMeshFlags(*command, flags->mesh);
  AddLayoutFlag(*command, options.layout);
  AddDTypeFlag(*command, flags->dtype);
  AddConfigFlag(*command);
  command->callback([flags, prompt, file] {
    if (prompt->count() + file->count() == 0) {
      throw UsageError("what to continue? Give --prompt TEXT (it may be empty) or --prompt-file");
    }
    RunGenerate(*flags);
  });
}

}  // namespace ringwise
