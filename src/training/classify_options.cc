#include "training/classify_options.h"

#include <fmt/format.h>

#include <span>

#include "training/require.h"

namespace ringwise {
namespace {

// A flag that would have no effect if it were given another value than its default.
struct Given {
  const char* flag;
  bool given;
};

void Refuse(std::span<const Given> flags, const char* of_what) {
  for (const auto& [flag, given] : flags) {
    Require(!given, fmt::format("--{} is of {} alone", flag, of_what));
  }
}

void RefuseLanguageFlags(const TrainOptions& options) {
  const TrainOptions defaults;
  const ModelConfig& model = options.model;
  const Given flags[] = {
      {"init", !options.init.empty()},
      {"context-schedule", !options.context_schedule.empty()},
      {"document-mask", options.document_mask},
      {"order-two", options.order_two},
      {"eval-tokens", options.eval_tokens != defaults.eval_tokens},
      {"window", model.window != 0},
      {"tied-embeddings", model.tied_embeddings},
      {"kv-heads", model.kv_heads != model.heads},
      {"head-dim", model.heads > 0 && model.head_dim != model.hidden / model.heads},
      {"attention", options.attention != defaults.attention},
      {"recompute", options.recompute != defaults.recompute}};
  Refuse(flags, "--task language");
}

void RefuseTextFlags(const TrainOptions& options) {
  const ClassifyOptions& classify = options.classify;
  TrainOptions defaults;
  defaults.task = options.task;
  const Given flags[] = {{"max-words", classify.rule.max_words != 0},
                         {"keep-last-words", classify.rule.keep_last},
                         {"vocab", options.model.vocab != WithDefaults(defaults).model.vocab},
                         {"word-pairs", classify.word_pairs != 0},
                         {"pad", classify.pad}};
  Refuse(flags, "--task imdb and reuters");
}

void RefuseSyntheticFlags(const TrainOptions& options) {
  const TrainOptions defaults;
  const Given flags[] = {
      {"context", options.context != defaults.context},
      {"samples", options.classify.samples != defaults.classify.samples},
      {"features", options.classify.features != defaults.classify.features},
      {"norm-over document", options.classify.norm_over != defaults.classify.norm_over}};
  Refuse(flags, "--task synthetic, whose documents have one length,");
}

void RefuseEncoderFlags(const TrainOptions& options) {
  const ClassifyOptions& classify = options.classify;
  const Given flags[] = {{"norm-place", classify.norm_place != ClassifyOptions().norm_place},
                         {"positions", classify.positions},
                         {"word-pairs", classify.word_pairs != 0},
                         {"dropout", options.dropout != 0},
                         {"sublayer-dropout", classify.sublayer_dropout != 0},
                         {"input-dropout", classify.input_dropout != 0},
                         {"head-dropout", classify.head_dropout != 0},
                         {"pad", classify.pad}};
  Refuse(flags, "--network encoder");
}

}  // namespace

void ValidateClassify(const TrainOptions& options) {
  const ClassifyOptions& classify = options.classify;
  const bool synthetic = options.task == Task::kSynthetic;
  Require(options.data.size() == (synthetic ? 0 : 1),
          synthetic
              ? "--task synthetic makes its own data: leave --data out"
              : fmt::format("--data is needed: the folder or archive of {}, one path, found {}",
                            Name(options.task), options.data.size()));
  Require(!synthetic || classify.network == Network::kEncoder,
          "--network words_seen needs words: --task imdb or reuters");
  RefuseLanguageFlags(options);
  if (synthetic) {
    RefuseTextFlags(options);
  } else {
    RefuseSyntheticFlags(options);
  }
  if (classify.network == Network::kWordsSeen) RefuseEncoderFlags(options);

  constexpr double kMostEpochs = 1e6;
  constexpr int64_t kMostSamples = 1'000'000'000;
  constexpr int64_t kMostFeatures = 1 << 20;
  Require(classify.epochs > 0 && classify.epochs <= kMostEpochs,
          fmt::format("--epochs must be above 0 and at most {:.0f}, found {}", kMostEpochs,
                      classify.epochs));
  RequireProbability("sublayer-dropout", classify.sublayer_dropout);
  RequireProbability("input-dropout", classify.input_dropout);
  RequireProbability("head-dropout", classify.head_dropout);
  RequireAtLeast<int64_t>("word-pairs", classify.word_pairs, 0);
  RequireAtLeast<int64_t>("max-words", classify.rule.max_words, 0);
  Require(!classify.rule.keep_last || classify.rule.max_words > 0,
          "--keep-last-words needs --max-words: which are the last is said by it");
  RequireWithin<int64_t>("samples", classify.samples, 1, kMostSamples);
  RequireWithin<int64_t>("features", classify.features, 1, kMostFeatures);
  RequireAtLeast<int64_t>("vocab", options.model.vocab, 3);
  RequireAtLeast<int64_t>("heads", options.model.heads, 1);
}

}  // namespace ringwise
