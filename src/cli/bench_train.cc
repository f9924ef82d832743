#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <vector>

#include "cli/bench_parts.h"
#include "cli/bench_report.h"
#include "cli/flags.h"
#include "ringwise/benchmark.h"

namespace ringwise {
namespace {

struct TrainFlags {
  MeshOptions mesh;
  Layout layout = Layout::kZigzag;
  BenchFlags bench;
};

BenchRecord RecordOf(const TrainBenchmark& benchmark, const TrainBenchmarkResult& result,
                     Layout layout) {
  const ModelConfig& model = benchmark.model;
  BenchRecord record = {{"case", benchmark.name},
                        {"hidden", model.hidden},
                        {"layers", model.layers},
                        {"heads", model.heads},
                        {"kv_heads", model.kv_heads},
                        {"head_dim", model.head_dim},
                        {"ffn", model.ffn},
                        {"context", benchmark.context},
                        {"dtype", Name(benchmark.dtype)},
                        {"ring", result.ring},
                        {"layout", Name(layout)},
                        {"threads", result.threads},
                        {"tokens", result.tokens},
                        {"tokens_per_second", result.tokens_per_second()},
                        {"mfu", result.share_of_peak()}};
  AddMeasured(record, result);
  record["peak_bytes"] = result.peak_bytes;
  record["attention_work"] = result.attention_work;
  record["bytes_sent"] = result.bytes_sent;
  return record;
}

void Run(const TrainFlags& flags) {
  const std::vector<TrainBenchmark> benchmarks = ChosenCases(TrainBenchmarks(), flags.bench);
  CheckTraceOfOneCase(flags.mesh, benchmarks.size());
  BenchTable table(LongestName(benchmarks), {"tokens/s", "GB a rank"});
  BenchmarkTraining(flags.mesh, flags.layout, benchmarks,
                    {.min_seconds = flags.bench.min_seconds, .progress = true},
                    [&](const TrainBenchmark& benchmark, const TrainBenchmarkResult& result) {
                      if (flags.bench.json) {
                        PrintRecord(RecordOf(benchmark, result, flags.layout));
                        return;
                      }
                      table.Row(
                          benchmark.name, result,
                          {fmt::format("{:.0f}", result.tokens_per_second()),
                           fmt::format("{:.2f}", static_cast<double>(result.peak_bytes) / 1e9)});
                    });
}

}  // namespace

void AddBenchTrain(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "train", "Steps of training named models: checked, then timed; the share of peak is the MFU");
  const auto flags = std::make_shared<TrainFlags>();
  AddCaseFlags(*command, flags->bench);
  AddLayoutFlag(*command, flags->layout);
  AddMeshFlags(*command, flags->mesh);
  AddTraceFlag(*command, flags->mesh);
  AddBenchOutputFlags(*command, flags->bench);
  AddConfigFlag(*command);
  command->callback([flags] {
    if (flags->bench.list) return ListCases(TrainBenchmarks());
    Run(*flags);
  });
}

}  // namespace ringwise
