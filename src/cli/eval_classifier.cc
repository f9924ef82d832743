#include "cli/eval_classifier.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "cli/document_progress.h"
#include "cli/flags.h"
#include "core/out_of_memory.h"
#include "ringwise/classify.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr const char* kSynthetic = "synthetic";

std::unique_ptr<DocumentSet> ReadTexts(const EvalClassifierOptions& options,
                                       const ClassifierFolder& about) {
  if (options.data.size() != 1) {
    throw UsageError(
        fmt::format("--data is needed: the folder or archive of {}, one path, found {}", about.task,
                    options.data.size()));
  }
  const TextDocuments::Options reading = ReadingOf(about);
  Progress progress(!UnderMpi());  // where it is not yet known who should speak
  progress.Note("reading " + options.data.front());
  const LabelledTexts texts = ReadTask(about.task, options.data.front());
  if (texts.classes != about.classes) {
    throw FileError(fmt::format(
        "{}: its {} classes are not the {} that {} was trained on: is it another version of {}?",
        options.data.front(), texts.classes.size(), about.classes.size(), options.model,
        about.task));
  }
  const std::vector<LabelledText>& some = options.split == "train" ? texts.train : texts.test;
  return std::make_unique<TextDocuments>(some, *about.vocabulary, reading);
}

std::unique_ptr<DocumentSet> MakeSamples(const EvalClassifierOptions& options,
                                         const ClassifierFolder& about) {
  if (!options.data.empty() || options.split != "test") {
    throw UsageError(
        "a classifier of task synthetic is tested on fresh samples: leave --data and "
        "--split out");
  }
  constexpr int64_t kMostSamples = 10'000'000;
  if (options.samples < 1 || options.samples > kMostSamples) {
    throw UsageError(
        fmt::format("--samples must be from 1 to {}, found {}", kMostSamples, options.samples));
  }
  return std::make_unique<SyntheticDocuments>(
      SyntheticTest(about.config, options.seed, options.samples));
}

nlohmann::ordered_json ToJson(const ClassReport& report, const std::vector<std::string>& classes) {
  const auto shares = [](const std::vector<std::optional<double>>& values) {
    auto json = nlohmann::ordered_json::array();
    for (const auto& value : values) {
      json.push_back(value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json());
    }
    return json;
  };
  return {{"accuracy", report.accuracy},           {"loss", report.loss},
          {"documents", report.documents},         {"classes", classes},
          {"precision", shares(report.precision)}, {"recall", shares(report.recall)},
          {"confusion", report.confusion}};
}

std::string Shown(const std::optional<double>& share) {
  return share ? fmt::format("{:.4f}", *share) : "-";
}

size_t WidthOf(const std::vector<std::string>& names) {
  size_t width = 0;
  for (const std::string& name : names) width = std::max(width, name.size());
  return width;
}

std::string ClassTable(const ClassReport& report, const std::vector<std::string>& classes) {
  const size_t width = std::max(WidthOf(classes), std::string("class").size());
  std::string text = fmt::format("{:{}}  {:>9}  {:>9}  {:>9}\n", "class", width, "documents",
                                 "precision", "recall");
  for (size_t c = 0; c < classes.size(); ++c) {
    int64_t documents = 0;
    for (const int64_t count : report.confusion[c]) documents += count;
    text += fmt::format("{:{}}  {:>9}  {:>9}  {:>9}\n", classes[c], width, documents,
                        Shown(report.precision[c]), Shown(report.recall[c]));
  }
  return text;
}

std::string ConfusionMatrix(const ClassReport& report, const std::vector<std::string>& classes) {
  const size_t width = std::max<size_t>(WidthOf(classes), 9);
  std::string text = fmt::format("{:{}}", "is \\ said", width);
  for (const std::string& name : classes) text += fmt::format("  {:>{}}", name, width);
  for (size_t label = 0; label < classes.size(); ++label) {
    text += fmt::format("\n{:{}}", classes[label], width);
    for (const int64_t count : report.confusion[label]) {
      text += fmt::format("  {:>{}}", count, width);
    }
  }
  return text;
}

std::string LargestConfusions(const ClassReport& report, const std::vector<std::string>& classes) {
  constexpr size_t kMost = 10;
  std::vector<std::tuple<int64_t, size_t, size_t>> mistakes;  // negative count, label, said
  for (size_t label = 0; label < classes.size(); ++label) {
    for (size_t said = 0; said < classes.size(); ++said) {
      const int64_t count = report.confusion[label][said];
      if (label != said && count > 0) mistakes.emplace_back(-count, label, said);
    }
  }
  std::sort(mistakes.begin(), mistakes.end());
  std::string text = "most frequent mistakes (--json has all)";
  for (size_t i = 0; i < std::min(kMost, mistakes.size()); ++i) {
    const auto& [count, label, said] = mistakes[i];
    text += fmt::format("\n{:5} of {} were said to be {}", -count, classes[label], classes[said]);
  }
  return text;
}

void Report(const EvalClassifierOptions& options, const ClassifierFolder& about,
            const ClassReport& report, Progress& progress) {
  if (!std::isfinite(report.loss)) {
    throw Error(
        fmt::format("{}: the loss is {}, not finite: the model's weights are broken, or "
                    "overflow in {}; try --dtype f32",
                    options.model, report.loss, options.dtype));
  }
  if (options.json) {
    fmt::print("{}\n", ToJson(report, about.classes).dump());
    return;
  }
  constexpr size_t kMostColumns = 8;
  progress.Say(fmt::format("accuracy {:.4f}, loss {:.4f} nats a document, {} documents ({}, {})\n",
                           report.accuracy, report.loss, report.documents, about.task,
                           about.task == kSynthetic ? "fresh samples" : options.split));
  progress.Say(ClassTable(report, about.classes));
  progress.Say(about.classes.size() <= kMostColumns ? ConfusionMatrix(report, about.classes)
                                                    : LargestConfusions(report, about.classes));
}

}  // namespace

void EvalClassifier(const EvalClassifierOptions& options) {
  const ClassifierFolder about = ReadClassifierFolder(options.model);
  // Once for all ranks of this process.
  const std::unique_ptr<DocumentSet> documents =
      about.task == kSynthetic ? MakeSamples(options, about) : ReadTexts(options, about);
  const auto evaluate = [&](Rank& rank) {
    Progress progress(rank.world.rank() == 0);
    const auto model = LoadClassifier(rank.context, options.model, ResolveDType(options.dtype));
    const ClassScores scores =
        Score(rank, *model, *documents, options.layout, ShowDocuments(progress));
    if (rank.world.rank() == 0) Report(options, about, Judge(scores), progress);
  };
  Launch(options.mesh, [&](Rank& rank) {
    ExplainOutOfMemory("use more hosts, or a longer --ring", [&] { evaluate(rank); });
  });
}

}  // namespace ringwise
