#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/document_progress.h"
#include "cli/flags.h"
#include "core/out_of_memory.h"
#include "formats/file_io.h"
#include "ringwise/classify.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

struct PredictFlags {
  std::string model;
  std::vector<std::string> files;  // empty: stdin
  bool lines = false;
  Layout layout = Layout::kZigzag;
  std::string dtype = "auto";
  MeshOptions mesh;
  bool json = false;
};

std::string ReadStdin() {
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  if (std::cin.bad()) throw FileError("stdin: cannot be read");
  return text;
}

std::vector<LabelledText> SplitLines(const std::string& name, const std::string& text) {
  std::vector<LabelledText> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(
        {fmt::format("{}:{}", name, lines.size() + 1), text.substr(begin, end - begin)});
    begin = end + 1;
  }
  return lines;
}

// Throws FileError: a file that is missing, no file or no text, a document without a word.
std::vector<LabelledText> ReadDocuments(const PredictFlags& flags) {
  std::vector<LabelledText> documents;
  const std::vector<std::string> files =
      flags.files.empty() ? std::vector<std::string>{"-"} : flags.files;
  for (const std::string& file : files) {
    const std::string name = file == "-" ? "stdin" : file;
    LabelledText whole{name, file == "-" ? ReadStdin() : ReadTextFile(file)};
    if (whole.text.find('\0') != std::string::npos) {
      throw FileError(name + ": a binary file (a byte of it is 0); expected text");
    }
    if (!flags.lines) {
      documents.push_back(std::move(whole));
      continue;
    }
    std::vector<LabelledText> lines = SplitLines(name, whole.text);
    if (lines.empty()) throw FileError(name + ": empty: no line to classify");
    std::move(lines.begin(), lines.end(), std::back_inserter(documents));
  }
  for (const LabelledText& document : documents) {
    if (SplitWords(document.text).empty()) {
      throw FileError(document.name + ": no word in it: there is nothing to classify");
    }
  }
  return documents;
}

// World rank 0 alone reads, for stdin comes to it alone; the others get its texts.
std::vector<LabelledText> ShareDocuments(const PredictFlags& flags, Communicator& world) {
  std::vector<LabelledText> documents;
  std::string bytes;
  std::vector<size_t> sizes;
  if (world.rank() == 0) {
    documents = ReadDocuments(flags);
    for (const LabelledText& document : documents) {
      sizes.push_back(document.text.size());
      bytes += document.text;
    }
  }
  const auto all_sizes = world.AllGather(std::as_bytes(std::span(sizes)));
  const auto all_bytes = world.AllGather(std::as_bytes(std::span(bytes)));
  if (world.rank() == 0) return documents;
  sizes.resize(all_sizes[0].size() / sizeof(size_t));
  std::copy(all_sizes[0].begin(), all_sizes[0].end(),
            std::as_writable_bytes(std::span(sizes)).begin());
  const auto* at = reinterpret_cast<const char*>(all_bytes[0].data());
  for (const size_t size : sizes) {
    documents.push_back({"", std::string(at, size)});
    at += size;
  }
  return documents;
}

void Print(const PredictFlags& flags, const std::vector<std::string>& classes,
           const std::string& name, const std::vector<double>& probabilities) {
  std::vector<size_t> order(classes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return probabilities[a] > probabilities[b]; });
  if (flags.json) {
    nlohmann::ordered_json record = {{"name", name},
                                     {"label", classes[order[0]]},
                                     {"probability", probabilities[order[0]]},
                                     {"probabilities", nlohmann::ordered_json::object()}};
    for (size_t c = 0; c < classes.size(); ++c) {
      record["probabilities"][classes[c]] = probabilities[c];
    }
    // A file's name may be no UTF-8.
    fmt::print("{}\n",
               record.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return;
  }
  constexpr size_t kMostShown = 3;
  std::string text = name + ":";
  for (size_t i = 0; i < std::min(kMostShown, order.size()); ++i) {
    text +=
        fmt::format("{} {} {:.4f}", i == 0 ? "" : ",", classes[order[i]], probabilities[order[i]]);
  }
  fmt::print("{}\n", text);
}

void RunPredict(const PredictFlags& flags) {
  const ClassifierFolder about = ReadClassifierFolder(flags.model);
  const TextDocuments::Options reading = ReadingOf(about);
  const auto predict = [&](Rank& rank) {
    const bool leads = rank.world.rank() == 0;
    Progress progress(leads);
    const std::vector<LabelledText> documents = ShareDocuments(flags, rank.world);
    const auto model = LoadClassifier(rank.context, flags.model, ResolveDType(flags.dtype));
    const ClassScores scores =
        Score(rank, *model, TextDocuments(documents, *about.vocabulary, reading), flags.layout,
              ShowDocuments(progress));
    if (!leads) return;
    for (size_t i = 0; i < documents.size(); ++i) {
      const std::vector<double> probabilities = scores.Probabilities(static_cast<int64_t>(i));
      if (!std::isfinite(probabilities[0])) {
        throw Error(
            fmt::format("{}: a probability that is not finite: the model's weights are "
                        "broken, or overflow in {}; try --dtype f32",
                        flags.model, flags.dtype));
      }
      Print(flags, about.classes, documents[i].name, probabilities);
    }
  };
  Launch(flags.mesh, [&](Rank& rank) {
    ExplainOutOfMemory("use more hosts, or shorter texts", [&] { predict(rank); });
  });
}

}  // namespace

void AddPredict(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "predict", "Classes of texts, with probabilities, by a classifier that `train` made");
  const auto flags = std::make_shared<PredictFlags>();
  command->add_option("--model", flags->model, "Classifier's folder: RUN/checkpoints/latest")
      ->type_name("DIR")
      ->required();
  command
      ->add_option("files", flags->files,
                   "Texts, a document a file; -, or none given: standard input")
      ->type_name("FILE");
  command->add_flag("--lines", flags->lines, "Each line is a document, not each file");
  AddMeshFlags(*command, flags->mesh);
  AddLayoutFlag(*command, flags->layout);
  AddDTypeFlag(*command, flags->dtype);
  AddJsonFlag(*command, flags->json);
  AddConfigFlag(*command);
  command->callback([flags] { RunPredict(*flags); });
}

}  // namespace ringwise
