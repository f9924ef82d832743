#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/case_progress.h"
#include "benchmark/timing.h"
#include "benchmark/train_check.h"
#include "core/out_of_memory.h"
#include "core/temporary_folder.h"
#include "ringwise/corpus.h"
#include "ringwise/error.h"
#include "ringwise/random.h"
#include "training/language_task.h"
#include "training/mesh_memory.h"
#include "training/mesh_peak.h"
#include "training/rank_trainer.h"

namespace ringwise {
namespace {

// A Llama on bytes with as many kv_heads as heads.
ModelConfig Model(int64_t hidden, int64_t layers, int64_t heads, int64_t ffn, int64_t context) {
  return {.hidden = hidden,
          .layers = layers,
          .heads = heads,
          .kv_heads = heads,
          .head_dim = hidden / heads,
          .ffn = ffn,
          .vocab = kByteVocab,
          .max_positions = context};
}

// A file of so many made-up words, the same every time.
std::string WriteText(const std::string& folder, int64_t bytes) {
  std::string text;
  Random random(7, 0);
  while (std::ssize(text) < bytes) {
    const auto letters = 2 + random.Below(8);
    for (uint64_t i = 0; i < letters; ++i) text += static_cast<char>('a' + random.Below(26));
    text += ' ';
  }
  std::string path = folder + "/text.txt";
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw FileError(path + ": cannot write the text to train on");
  return path;
}

// What the ranks that are threads of this process share.
struct TrainFiles {
  explicit TrainFiles(int64_t context)
      : text(WriteText(folder.path(), std::max<int64_t>(4 * context, 1 << 16))),
        corpus({.paths = {text}, .heldout_fraction = 0}) {}

  TemporaryFolder folder;
  std::string text;
  Corpus corpus;
};

TrainOptions OptionsOf(const TrainBenchmark& benchmark, const TrainFiles& files,
                       const MeshOptions& mesh, Layout layout) {
  TrainOptions options;
  options.data = {files.text};
  options.out = files.folder.path() + "/run";
  options.mesh = mesh;
  options.layout = layout;
  options.compute = benchmark.dtype;
  options.recompute = Recompute::kNone;
  options.steps = 1 << 20;  // never reached: the schedule must not end
  options.context = benchmark.context;
  options.batch = 1;
  options.model = benchmark.model;
  options.heldout_fraction = 0;
  return WithDefaults(options);
}

// Meaningful on rank 0 of the world. Collective.
TrainBenchmarkResult MeasureTraining(Rank& rank, const TrainOptions& train, const Corpus& corpus,
                                     const BenchmarkOptions& options, CaseProgress& progress) {
  RankTrainer trainer(rank, train, std::make_unique<LanguageTask>(rank, train, corpus));
  trainer.StartClock();
  trainer.SamplePeak();
  std::optional<StopReason> stop;
  trainer.TakeStep(stop);  // the warm-up
  TrainBenchmarkResult result;
  CallTimes times;
  StepRecord record;
  for (bool more = true; more;) {
    trainer.SamplePeak();
    times.Time([&] { record = trainer.TakeStep(stop); });
    std::array<std::byte, 1> go_on = {std::byte{!times.Enough(options.min_seconds)}};
    rank.world.Broadcast(go_on, 0);
    more = go_on[0] != std::byte{0};
    if (rank.world.rank() == 0) progress.Update(times.Share(options.min_seconds));
  }
  result.peak_flops = std::max(record.peak_flops, MeasureMeshPeak(rank, train.compute).best);
  result.peak_bytes = LargestPeak(rank).total;
  result.ring = rank.ring.size();
  result.threads = rank.context.team.size();
  result.tokens = record.tokens;
  result.flops = record.mfu * record.peak_flops * record.seconds;
  result.attention_work = record.attention_work;
  result.bytes_sent = record.bytes_sent;
  times.Summarize(result);
  return result;
}

}  // namespace

std::vector<TrainBenchmark> TrainBenchmarks() {
  const std::pair<const char*, ModelConfig> models[] = {
      {"tiny", Model(64, 2, 2, 96, 128)},
      {"512x8-1k", Model(512, 8, 8, 1408, 1024)},
      {"512x8-8k", Model(512, 8, 8, 1408, 8192)},
      {"512x8-16k", Model(512, 8, 8, 1408, 16384)}};
  std::vector<TrainBenchmark> benchmarks;
  for (const auto& [name, model] : models) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      benchmarks.push_back({.name = std::string(name) + "-" + std::string(Name(dtype)),
                            .model = model,
                            .context = model.max_positions,
                            .dtype = dtype});
    }
  }
  return benchmarks;
}

void BenchmarkTraining(const MeshOptions& mesh, Layout layout,
                       const std::vector<TrainBenchmark>& benchmarks,
                       const BenchmarkOptions& options,
                       const OnResult<TrainBenchmark, TrainBenchmarkResult>& on_result) {
  std::vector<double> costs;
  costs.reserve(benchmarks.size());
  for (const TrainBenchmark& benchmark : benchmarks) {
    costs.push_back(
        TrainFlopsPerToken(benchmark.model, MeanKeys(benchmark.model, benchmark.context)) *
        static_cast<double>(benchmark.context));
  }
  CaseProgress progress(options.progress, std::move(costs));
  for (const TrainBenchmark& benchmark : benchmarks) {
    const TrainFiles files(benchmark.context);
    const TrainOptions train = OptionsOf(benchmark, files, mesh, layout);
    std::optional<TrainBenchmarkResult> result;
    Launch(mesh, [&](Rank& rank) {
      ExplainOutOfMemory("use more hosts, or a case with a shorter context", [&] {
        if (rank.world.rank() == 0) progress.Begin(benchmark.name);
        CheckTraining(rank, benchmark, layout);
        const TrainBenchmarkResult mine =
            MeasureTraining(rank, train, files.corpus, options, progress);
        if (rank.world.rank() == 0) result = mine;
      });
    });
    if (result) on_result(benchmark, *result);
  }
}

}  // namespace ringwise
