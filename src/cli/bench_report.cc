#include "cli/bench_report.h"

#include <fmt/format.h>

#include <cstdio>
#include <utility>

#include "cli/flags.h"
#include "ringwise/cpu.h"
#include "ringwise/error.h"

namespace ringwise {
namespace {

constexpr size_t kOwnWidth = 11;

}  // namespace

void AddBenchOutputFlags(CLI::App& command, BenchFlags& flags) {
  command
      .add_option("--min-seconds", flags.min_seconds,
                  "Repeat for at least so long, and three times; the median is reported")
      ->capture_default_str()
      ->type_name("SECONDS")
      ->check(NumberFor(flags.min_seconds))
      ->check(AtLeastZero());
  command.add_flag_callback(
      "--avx2", LimitToAvx2,
      "Use no AVX-512 nor AMX: what an older CPU would reach, against its peak");
  AddJsonFlag(command, flags.json);
}

CLI::Option* AddCaseFlags(CLI::App& command, BenchFlags& flags) {
  CLI::Option* const list =
      command.add_flag("--list", flags.list, "Print the names of the cases and end");
  return command
      .add_option("--case", flags.cases,
                  "Case to measure, or all whose names match a pattern (* and ?); may be repeated")
      ->type_name("NAME")
      ->excludes(list);
}

void CheckTraceOfOneCase(const MeshOptions& mesh, size_t cases) {
  if (mesh.trace.empty() || cases == 1) return;
  throw UsageError(fmt::format("--trace shows one case, found {}: choose one with --case", cases));
}

void AddMeasured(BenchRecord& record, const BenchmarkResult& result) {
  record["vector_kernels"] = VectorTarget();
  record["native_bf16"] = HasNativeBf16();
  record["seconds"] = result.seconds;
  record["best_seconds"] = result.best_seconds;
  record["spread"] = result.spread;
  record["calls"] = result.calls;
  record["cores"] = result.cores;
  record["gflops"] = result.flops_per_second() / 1e9;
  record["peak_gflops"] = result.peak_flops / 1e9;
  record["share_of_peak"] = result.share_of_peak();
  record["best_share_of_peak"] = result.best_share_of_peak();
  if (result.sustained_flops > 0) {
    record["mean_seconds"] = result.mean_seconds;
    record["sustained_gflops"] = result.sustained_flops / 1e9;
    record["share_of_sustained"] = result.share_of_sustained();
  }
}

void PrintRecord(const BenchRecord& record) {
  fmt::print("{}\n", record.dump());
  std::fflush(stdout);
}

BenchTable::BenchTable(size_t name_width, std::vector<std::string> own_columns)
    : name_width_(name_width), own_columns_(std::move(own_columns)) {}

void BenchTable::Row(const std::string& name, const BenchmarkResult& result,
                     const std::vector<std::string>& own) {
  if (!std::exchange(any_, true)) {
    fmt::print("{:{}}  {:>10} {:>7} {:>9} {:>7} {:>7} {:>9} {:>6}", "", name_width_, "seconds",
               "spread", "GFLOP/s", "of peak", "best", "sustained", "cores");
    for (const std::string& column : own_columns_) fmt::print(" {:>{}}", column, kOwnWidth);
    fmt::print("\n");
  }
  const std::string sustained = result.sustained_flops > 0
                                    ? fmt::format("{:.3f}", result.share_of_sustained())
                                    : std::string("-");
  fmt::print("{:{}}  {:>10.4g} {:>5.1f} % {:>9.1f} {:>7.3f} {:>7.3f} {:>9} {:>6.2f}", name,
             name_width_, result.seconds, 100 * result.spread, result.flops_per_second() / 1e9,
             result.share_of_peak(), result.best_share_of_peak(), sustained, result.cores);
  for (const std::string& text : own) fmt::print(" {:>{}}", text, kOwnWidth);
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace ringwise
